"""Keys and passwords stay in the environment: a recipe is stored, hashed and shown, so it may hold none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_VARIABLE = re.compile(r"([A-Z_][A-Z0-9_]*)?")
_CREDENTIALS = re.compile(r"[a-z0-9]://[^\s\"]*@", re.IGNORECASE)
_SHOWN = "recipes are stored and shown"
_IN_THE_ENVIRONMENT = {
    "tracking.mlflow": ", which MLflow reads from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
}


def check_no_credentials(values: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the key and never repeats the value, where a recipe's values hold a credential.

    `values` maps dotted keys to what they hold.
    """
    for key, value in values.items():
        if key == "synthesis.endpoint.key_variable" and not _VARIABLE.fullmatch(value):
            raise ValueError(
                f"'{key}' is to be an environment variable's name in capitals, as OPENAI_API_KEY, and never the key "
                f"itself: {_SHOWN}"
            )
        if key == "synthesis.endpoint.url" and "?" in value:
            raise ValueError(f"'{key}' without what follows '?': {_SHOWN}")
        if _CREDENTIALS.search(unquote(json.dumps(value))):
            elsewhere = _IN_THE_ENVIRONMENT.get(key, "")
            raise ValueError(f"'{key}' without user name or key{elsewhere}: {_SHOWN}")
