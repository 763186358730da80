"""Sandboxes that cannot start: the reason reaches the user, not the traceback that Ray wraps it in."""

from __future__ import annotations

import pytest

from actors.ray_pool import NoMembers
from actors.sandbox_group import SandboxGroup
from ledex_ray.config import SandboxConfig
from tests.actors.test_sandbox_actors import RIGHT, request


@pytest.mark.slow
def test_sandboxes_that_cannot_start_say_why_in_a_line(ray_session: None) -> None:
    hopeless = SandboxGroup(SandboxConfig(actors=1, packages=("/nowhere",)))
    try:
        with pytest.raises(NoMembers) as told:
            list(hopeless.client().score([request("a", RIGHT)]))
    finally:
        hopeless.shutdown()
    assert "BadInput: sandbox.packages: no such folder on this machine, got '/nowhere'" in str(told.value)
    assert "\n" not in str(told.value) and "creation task" not in str(told.value)
