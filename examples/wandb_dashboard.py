"""Saves a dashboard of this project's runs on wandb: a section a topic, each run's stages under its name.

    pip install wandb-workspaces
    python -m examples.wandb_dashboard ENTITY [PROJECT]

Once a project is enough: later runs appear in it by themselves. It needs a wandb login and a connection; runs that were
offline come by `wandb sync runs/NAME/wandb/offline-run-*`.
"""

from __future__ import annotations

import argparse
from typing import Any

from ledex_ray.config import TrackingConfig
from ledex_ray.metric_groups import GROUPS

OPEN = ("reward", "verdict", "policy")  # what one looks at first; the others unfold on a click


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entity", help="user or team on wandb")
    parser.add_argument("project", nargs="?", default=TrackingConfig().project)
    arguments = parser.parse_args()
    dashboard(arguments.entity, arguments.project).save()  # it says where


def dashboard(entity: str, project: str) -> Any:
    """The workspace, not saved yet: for PPO a section a group of metrics, for SFT one in all."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def curves(stage: str, group: str, start: str) -> Any:
        return wr.LinePlot(
            title=f"{stage}: {start.strip('_')}", x=f"{stage}/step", metric_regex=pattern(stage, group, start)
        )

    sections = [
        ws.Section(
            name=f"PPO: {group}", panels=[curves("ppo", group, start) for start in starts], is_open=group in OPEN
        )
        for group, starts in GROUPS.items()
    ]
    losses = [curves("sft", "policy", start) for start in ("loss", "validation_loss", "lr")]
    sections.insert(0, ws.Section(name="SFT", panels=losses, is_open=True))
    runs = ws.RunsetSettings(groupby=[ws.Metric("Group")])
    return ws.Workspace(name="ledex", entity=entity, project=project, sections=sections, runset_settings=runs)


def pattern(stage: str, group: str, start: str) -> str:
    """The metrics of a stage that one panel shows: those of a group whose name begins so."""
    return f"^{stage}/{group}/{start}.*"


if __name__ == "__main__":
    main()
