"""Make, inspect and check datasets: `python dataset_tool.py --help`."""

from __future__ import annotations

import importlib

import click

import dnnlib.cli

# Command -> where it is; imported when it is called, so that --help is quick.
_COMMANDS = {
    "video": ("dataset.preparation.cli", "video_command"),
    "synth": ("dataset.synthesis.cli", "synth_command"),
    "info": ("dataset.upkeep.cli", "info_command"),
    "validate": ("dataset.upkeep.cli", "validate_command"),
    "join": ("dataset.upkeep.cli", "join_command"),
    "merge": ("dataset.upkeep.cli", "merge_command"),
    "split": ("dataset.upkeep.cli", "split_command"),
    "export-eg3d": ("dataset.upkeep.cli", "export_eg3d_command"),
}
_HELP = {
    "video": "Turn raw videos into a data set of aligned clips.",
    "synth": "Render synthetic talking heads with depth, mask and true expression.",
    "info": "Say what a dataset holds.",
    "validate": "Check every index, label, checksum and picture of a dataset.",
    "join": "Join the shards that several writers made into one index.",
    "merge": "Copy datasets into one.",
    "split": "Divide the people of a dataset anew among train, val and test.",
    "export-eg3d": "Write a dataset in the format of EG3D.",
}


class LazyGroup(dnnlib.cli.Group):
    """A group that knows its commands' names and first lines, and imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_HELP.items()))


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
def main() -> None:
    """Make, inspect and check the datasets that train.py and pretrain.py read."""


if __name__ == "__main__":
    main()
