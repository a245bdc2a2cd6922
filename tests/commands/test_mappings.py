"""`mappings apply` and `mappings list`, and the example file."""

from fractions import Fraction
from pathlib import Path

from app.commands.demo_scenario import BILLED
from app.commands.demo_stage import mapping_file
from app.mapping.file import from_yaml, to_mappings
from tests.commands.program import Program

BAD = """\
meters:
  - meter: ai_prompt_tokens
    price: price_tokens
    scale: -1
  - meter: Not A Slug
    price: price_2
subjects:
  - subject: customer-1
"""


def test_dry_run_apply_list(program: Program) -> None:
    example = str(mapping_file())
    dry = program.run("mappings", "apply", example, "--dry-run")
    assert dry.returncode == 0
    assert "7 mappings would be changed (dry run)." in dry.stdout

    applied = program.run("mappings", "apply", example)
    assert applied.returncode == 0
    assert "7 mappings changed." in applied.stdout
    again = program.run("mappings", "apply", example)
    assert again.returncode == 0
    assert "Nothing to change" in again.stdout
    assert "~" not in applied.stdout  # all of them are new: the dry run has changed nothing
    listed = program.run("mappings", "list").stdout
    for name in ("ai_prompt_tokens", "gpu_hours", "acme-eu", "sub_initech", "1/1000"):
        assert name in listed


SPLIT = """\
meters:
  - {meter: tokens, price: price_4, groups: {model: "[/red]gpt-4"}, whole_period: true}
  - {meter: tokens, price: price_rest, record_per: day}
"""


def test_a_split_meter_and_what_is_to_be_known_of_it(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "split.yaml"
    file.write_text(SPLIT)
    for options in (("--dry-run",), ()):
        done = program.run("mappings", "apply", str(file), *options)
        assert done.returncode == 0
        told = " ".join(done.stdout.replace("│", " ").split())
        for part in ("model=[/red]gpt-4", "else:", "not checked:", "OPENMETER_API_URL"):
            assert part in told
    listed = " ".join(program.run("mappings", "list").stdout.replace("│", " ").split())
    for part in ("model=[/red]gpt-4", "price_4", "whole period", "price_rest", "a record per day"):
        assert part in listed


def test_a_bad_file_is_refused_with_paths(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    done = program.run("mappings", "apply", str(file))
    assert done.returncode == 2
    assert done.stdout == ""
    for path in ("meters[0]", "meters[1].meter", "subjects[0].subscription"):
        assert path in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there(program: Program) -> None:
    done = program.here("mappings", "apply", "nowhere.yaml")
    assert done.exit_code == 2
    assert "nowhere.yaml" in done.stderr


def test_the_example_says_what_the_demo_expects() -> None:
    mappings = to_mappings(from_yaml(mapping_file().read_text(encoding="utf-8")))
    for (subject, meter), item in BILLED.items():
        assert mappings.subjects[subject][-1].subscription == item.subscription
        (mapping,) = mappings.meters[meter]
        assert mapping.scale == item.scale
    (tokens,) = mappings.meters["ai_prompt_tokens"]
    assert tokens.scale == Fraction(1, 1000)
