"""YAML as this program reads it: text, lists and dictionaries, nothing that reads in two ways.

A scale of 0.001 never becomes a float, a subject 0123 never a number.
"""

from collections.abc import Hashable
from typing import Any

import yaml


class NotReadable(Exception):
    """The text is no YAML that can be read; `line` counts from 1. The message is constant."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def read_yaml(text: str) -> object:
    """The value of one YAML document; None where it is empty. Raises NotReadable."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - it builds str, list and dict only
    except RecursionError:
        raise NotReadable("is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise NotReadable("is not YAML", None if mark is None else mark.line + 1) from None


class _Loader(yaml.BaseLoader):
    """The loader that leaves every scalar as it is written, and refuses a key given twice.

    YAML's own answer is to drop the first silently: of two `subjects:` sections, or of two
    subscriptions of one subject, nobody would ever be told.
    """

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - PyYAML's signature
    ) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise NotReadable("has the same key twice", key.start_mark.line + 1)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
