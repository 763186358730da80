"""LoRA adapters as plain models: an adapter's directory merged into its base once, kept under LEDEX_CACHE.

Engines then serve it as any other model. The merge is done in the base's own precision.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ledex_ray.errors import BadInput

log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether a directory holds an adapter, and not a whole model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def merged(folder: Path, cache: Path, resolve_base: Callable[[str], Path], *, trust_remote_code: bool = False) -> Path:
    """The directory of the merged model, made where it is not there yet. BadInput where the base cannot be had."""
    config = json.loads((folder / CONFIG).read_text())
    base_name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not base_name:
        raise BadInput(str(folder / CONFIG), "names no 'base_model_name_or_path'", expected="the adapter's base model")
    of_hub = revision and not Path(base_name).is_dir()
    base = resolve_base(f"{base_name}@{revision}" if of_hub else base_name)
    digest = hashlib.sha256(str(base).encode())
    for file in sorted(p for p in folder.iterdir() if p.name.startswith("adapter_")):
        digest.update(file.name.encode() + file.read_bytes())
    target = cache / f"merged-{folder.name}-{digest.hexdigest()[:12]}"
    if not target.is_dir():
        log.info("merging the adapter %s into %s, once: %s", folder, base_name, target)
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
        try:
            _merge(folder, base, scratch, trust_remote_code)
            scratch.chmod(0o755)
            if not target.is_dir():  # another process may have been quicker
                scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _merge(folder: Path, base: Path, out: Path, trust_remote_code: bool) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=trust_remote_code)
    PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(base, trust_remote_code=trust_remote_code).save_pretrained(out)
