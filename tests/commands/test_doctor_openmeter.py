"""The doctor at a stand-in for OpenMeter on a real port, and as a command."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.commands.demo_http import LocalApi
from app.commands.doctor_findings import Finding, Level
from app.commands.doctor_openmeter import openmeter_finding
from app.config import Settings
from app.workshop import open_openmeter
from tests.commands.program import Program
from tests.openmeter_side.answers import Answer, unavailable
from tests.openmeter_side.serving import serving
from tests.openmeter_side.side import OpenMeterSide

KEY = "om_secret_of_nobody"
NOW = datetime(2026, 3, 15, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def side() -> OpenMeterSide:
    made = OpenMeterSide(api_key=KEY)
    made.meter("calls")
    return made


@pytest.fixture
def address(side: OpenMeterSide) -> Iterator[str]:
    with serving(side) as url:
        yield url


async def found(address: str, *meters: str, key: str | None = KEY) -> Finding:
    settings = Settings(
        _env_file=None,
        openmeter_api_url=address,
        openmeter_api_key=None if key is None else SecretStr(key),
        openmeter_timeout=5,
    )
    client = open_openmeter(settings)
    assert client is not None
    async with client:
        return await openmeter_finding(client, meters, NOW)


def test_without_an_address_there_is_no_client() -> None:
    assert open_openmeter(Settings(_env_file=None)) is None


@pytest.mark.parametrize("meters", [(), ("calls",), ("calls", "tokens")])
async def test_it_works_and_costs_one_call(
    side: OpenMeterSide, address: str, meters: tuple[str, ...]
) -> None:
    finding = await found(address, *meters)
    assert (finding.level, finding.action) == (Level.OK, "")
    assert len(side.requests) == 1


@pytest.mark.parametrize("meters", [(), ("calls",)])
@pytest.mark.parametrize("key", [None, "om_another"])
async def test_a_wrong_key(address: str, key: str | None, meters: tuple[str, ...]) -> None:
    finding = await found(address, *meters, key=key)
    assert finding.level is Level.PROBLEM
    assert "OPENMETER_API_KEY" in finding.action
    assert "om_another" not in repr(finding)


async def test_a_meter_that_openmeter_does_not_know(address: str) -> None:
    finding = await found(address, "nobodys_meter")
    assert finding.level is Level.PROBLEM
    assert "no meter nobodys_meter" in finding.action


@pytest.mark.parametrize("meters", [(), ("calls",)])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, b"404 page not found", "text/plain"),
        Answer(302, b"", "text/plain", {"location": "https://elsewhere.example"}),
        Answer(200, b"<html>a page</html>", "text/html"),
    ],
)
async def test_an_address_of_something_else(
    side: OpenMeterSide, address: str, answer: Answer, meters: tuple[str, ...]
) -> None:
    side.fail(answer)
    finding = await found(address, *meters)
    assert finding.level is Level.PROBLEM
    assert "address of OpenMeter's API" in finding.action


async def test_an_openmeter_that_is_down(side: OpenMeterSide, address: str) -> None:
    side.fail(unavailable())
    finding = await found(address, "calls")
    assert finding.level is Level.PROBLEM
    assert "DNS" in finding.action
    assert "503" in finding.detail


async def test_an_address_where_nobody_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    finding = await found(f"http://127.0.0.1:{port}", "calls")
    assert finding.level is Level.PROBLEM
    assert "DNS" in finding.action


def test_the_command_looks_only_where_an_address_is_set(
    program: Program, side: OpenMeterSide, address: str, control: LocalApi, tmp_path: Path
) -> None:
    file = tmp_path / "mappings.yaml"
    file.write_text("meters: [{meter: calls, price: price_1}]\n")
    base = {"STRIPE_API_BASE": control.url}
    assert program.run("mappings", "apply", str(file), **base).returncode == 0
    without = json.loads(program.run("doctor", "--json", **base).stdout)
    assert "openmeter_api" not in {check["check"] for check in without["checks"]}
    assert side.requests == []

    set_up = {**base, "OPENMETER_API_URL": address, "OPENMETER_API_KEY": KEY}
    done = program.run("doctor", "--json", **set_up)
    [check] = [c for c in json.loads(done.stdout)["checks"] if c["check"] == "openmeter_api"]
    assert check["level"] == "ok"
    assert "calls" in check["detail"]
    refused = program.run("doctor", **{**set_up, "OPENMETER_API_KEY": "om_wrong"})
    assert refused.returncode == 1
    assert "OPENMETER_API_KEY" in refused.stdout
    assert "om_wrong" not in refused.stdout + refused.stderr
