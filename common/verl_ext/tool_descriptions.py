"""``python -m common.verl_ext.tool_descriptions FILE``: the tools of a file as JSON, in a separate process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common.verl_ext.registered import answer_of


def descriptions(path: Path) -> list[dict[str, Any]]:
    """The descriptions of a file's tools, as the chat template gets them.

    Raises:
        ValueError: If the file cannot be imported, or a function lacks what a description needs.
    """
    return answer_of("common.verl_ext.tool_descriptions", path)


def main() -> int:
    """Print the descriptions."""
    from verl.tools.function_tool import load_function_tools_from_path

    tools = load_function_tools_from_path(sys.argv[1])
    print(json.dumps([tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tools]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
