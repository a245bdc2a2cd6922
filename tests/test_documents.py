"""What the documents promise is what the program has."""

from pathlib import Path

import pytest

from app.config import Settings
from app.dispatch.reasons import HOLD_ACTIONS, STOP_ACTIONS, HoldReason, StopReason
from app.mapping.reasons import ACTIONS, ParkReason

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_readme_has_every_setting_as_it_is(name: str) -> None:
    field = Settings.model_fields[name]
    default = "" if field.default in (None, (), "") else f"`{field.default}`"
    assert f"| `{name.upper()}` | {default} | {field.description} |" in README


@pytest.mark.parametrize("reason", [*ParkReason, *HoldReason, *StopReason])
def test_readme_names_every_reason(reason: str) -> None:
    assert f"`{reason}`" in README


def test_every_reason_says_what_to_do() -> None:
    assert set(ACTIONS) == set(ParkReason)
    assert set(HOLD_ACTIONS) == set(HoldReason)
    assert set(STOP_ACTIONS) == set(StopReason)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    files = [link for link in links if not link.startswith("http")]
    assert files
    assert [link for link in files if not (ROOT / link).exists()] == []
