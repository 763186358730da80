"""The science of ledex-ray: data types and pure functions. Nothing here knows Ray, vLLM or DeepSpeed."""
