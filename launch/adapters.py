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


def base_of(folder: Path) -> str:
    """The name of an adapter's base model, with its revision on the hub. BadInput where its configuration says none."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        name, revision = config.get("base_model_name_or_path"), config.get("revision")
    except (ValueError, AttributeError) as error:
        raise BadInput(str(folder / CONFIG), f"is no adapter's configuration ({error})") from error
    if not name:
        raise BadInput(str(folder / CONFIG), "names no 'base_model_name_or_path'", expected="the adapter's base model")
    return f"{name}@{revision}" if revision and not Path(name).is_dir() else str(name)


def merged(folder: Path, cache: Path, resolve_base: Callable[[str], Path], *, trust_remote_code: bool = False) -> Path:
    """The directory of the merged model, made where it is not there yet. BadInput where the base cannot be had."""
    base_name = base_of(folder)
    base = resolve_base(base_name)
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
            try:
                scratch.rename(target)
            except OSError:
                if not target.is_dir():  # another process may have been quicker
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _merge(folder: Path, base: Path, out: Path, trust_remote_code: bool) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    own = folder if (folder / "tokenizer_config.json").is_file() else base  # with its chat template
    tokenizer = AutoTokenizer.from_pretrained(own, trust_remote_code=trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=trust_remote_code)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)
