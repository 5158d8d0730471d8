"""Who is woken by what: the whole table, and that both its sides are in use."""

from __future__ import annotations

import ast
import pathlib
from typing import cast
from unittest import mock

import pytest

import cnf
from cnf.agent import parts
from cnf.agent.caches import Caches
from cnf.agent.wakes import WAKES, Source, Wakes, Work
from cnf.controllers.services import PendingChanges
from fleetboard.kube.controller import SINGLE

EXPECTED = {
    Source.START: {Work.STATUS, Work.ATTACHMENTS},
    Source.MESH: {Work.TUNNEL, Work.BLOCKS, Work.STATUS, Work.SERVICES},
    Source.COUNTS: {Work.STATUS},
    Source.ZONE: {Work.SERVICES},
    Source.SERVICE: {Work.SERVICES},
    Source.ENDPOINTS: {Work.SERVICES},
    Source.CLAIM: {Work.BLOCKS},
    Source.POD: {Work.LATECOMERS},
    Source.LEADERSHIP: {Work.TUNNEL, Work.BLOCKS, Work.STATUS},
    Source.NETWORK: {Work.STATUS},
    Source.ISOLATION: {Work.SERVICES, Work.STATUS},
    Source.ATTACHMENT: {Work.ATTACHMENTS, Work.STATUS},
}


@pytest.mark.parametrize("source", Source)
def test_a_source_wakes_whom_it_concerns_and_nobody_else(source: Source) -> None:
    wakes = Wakes()

    wakes.wake(source)

    assert {work for work in Work if len(wakes.queue(work))} == EXPECTED[source]


def test_what_changed_is_remembered_before_anybody_is_woken() -> None:
    seen: list[int] = []
    wakes = Wakes({Source.SERVICE: lambda _key: seen.append(len(wakes.queue(Work.SERVICES)))})

    wakes.wake(Source.SERVICE, "default/web")

    assert seen == [0]
    assert wakes.queue(Work.SERVICES).get() == SINGLE


def test_services_are_planned_from_what_was_remembered_once() -> None:
    pending = PendingChanges()
    wakes = Wakes(pending.marks)
    pending.mesh = False

    wakes.wake(Source.SERVICE, "fleetboard-system/default.web")
    wakes.wake(Source.ENDPOINTS, "default/web-c2")
    assert not pending.mesh
    wakes.wake(Source.ZONE)

    assert pending.mesh
    assert pending.take() == ({"fleetboard-system/default.web"}, {"default/web-c2"})
    assert pending.take() == (set(), set())


def test_all_work_has_a_controller_that_takes_it_from_its_queue() -> None:
    wakes, anything = Wakes(), mock.MagicMock()
    workers = parts.build_workers(wakes, cast("Caches", anything), cast("parts.Controllers", anything))

    assert {*workers} == {*Work}
    for work, worker in workers.items():
        worker.enqueue(SINGLE)
        assert wakes.queue(work).get() == SINGLE


def test_all_work_is_woken_and_all_sources_are_raised() -> None:
    raised = {
        argument.attr
        for path in pathlib.Path(*cnf.__path__).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for argument in call.args
        if isinstance(argument, ast.Attribute)
        and isinstance(argument.value, ast.Name)
        and argument.value.id == "Source"
    }

    assert {source.name for source in Source} == {source.name for source in WAKES} == raised
    assert {work for woken in WAKES.values() for work in woken} == {*Work}
