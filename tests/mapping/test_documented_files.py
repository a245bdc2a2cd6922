"""The mapping files of the documents are ones that the program takes."""

import re
from pathlib import Path

import pytest

from app.mapping.entries import MeterEntry, SubjectEntry
from app.mapping.file import Mappings, from_yaml, to_mappings

ROOT = Path(__file__).parents[2]
OPERATION = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
_COMMENTED = re.compile(r"^  # (- | {2}\w+: )", re.MULTILINE)


def read(text: str) -> Mappings:
    return to_mappings(from_yaml(text))


@pytest.mark.parametrize("document", ["README.md", "docs/operation.md"])
def test_the_examples_of_the_documents(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    split = [meter for block in found for meter in read(block).meters.values() if len(meter) > 1]
    assert len(split) == 1


def test_the_split_meter_that_the_example_file_proposes() -> None:
    text = (ROOT / "examples" / "mappings.yaml").read_text(encoding="utf-8")
    assert "ai_completion_tokens" not in read(text).meters
    proposed = read(_COMMENTED.sub(r"  \1", text)).meters["ai_completion_tokens"]
    assert [dict(mapping.group_filter) for mapping in proposed] == [{}, {"model": "gpt-4"}]


@pytest.mark.parametrize("member", [*MeterEntry.model_fields, *SubjectEntry.model_fields])
def test_each_member_is_explained(member: str) -> None:
    rows = [line for line in OPERATION.splitlines() if line.startswith("| `")]
    assert any(f"`{member}`" in row.split(" | ")[0] for row in rows)
