"""When a worker's task is protected: the rule alone, with a clock, an agent and work that the test makes up."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serverless.container.protection import Answer, Facts, Phase, Protection, Rules, for_tasks_of

RULES = Rules()
GRANTED, REFUSED, UNWANTED = Answer(True), Answer(False, why="away"), Answer(False, unwanted=True)


class World:
    """A worker of two slots with the rule, looked at once a second. work: (when it comes, how long it takes), in seconds."""

    slots = 2
    #: Under way while it listens.
    polls = 1

    def __init__(
        self,
        work: list[tuple[float, float]] = (),  # type: ignore[assignment]
        answer: Callable[[float, bool], Answer] = lambda now, asked: GRANTED,
        rules: Rules = RULES,
        release: Callable[[float], str] = lambda now: "",
    ) -> None:
        self.now = 0.0
        self.protection = Protection(rules, self.now)
        self.rules = rules
        self.waiting = sorted(work)
        self.answer = answer
        self.release = release
        self.held: list[tuple[float, float]] = []
        self.is_open = False
        #: What ECS believes.
        self.protected_until = float("-inf")
        self.asked: list[tuple[float, bool, Answer]] = []
        self.phases: list[tuple[float, Phase]] = []
        self.done = 0

    def second(self) -> None:
        self.held = [each for each in self.held if each[1] > self.now]
        facts = Facts(
            len(self.held) + (self.polls if self.is_open else 0),
            max((self.now - began for began, _ in self.held), default=0.0),
            self.release(self.now),
        )
        # Between the facts and the step, more may come, as long as it is open.
        self._receive()
        step = self.protection.look(self.now, facts)
        self.is_open = step.may_receive
        if step.ask is not None:
            assert step.ask or not self.held, "it lets go of its task while it holds messages"
            answer = self.answer(self.now, step.ask)
            self.asked.append((self.now, step.ask, answer))
            if answer.granted:
                self.protected_until = self.now + self.rules.expires if step.ask else float("-inf")
            self.protection.answered(self.now, step.ask, answer)
            self.is_open = self.protection.phase is Phase.RECEIVING
        if not self.phases or self.phases[-1][1] is not self.protection.phase:
            self.phases.append((self.now, self.protection.phase))
        self.now += 1.0

    def run(self, seconds: float) -> World:
        until = self.now + seconds
        while self.now < until:
            self.second()
            self.check()
        return self

    def check(self) -> None:
        """Overridden by what must hold at any time."""

    def _receive(self) -> None:
        while self.is_open and len(self.held) < self.slots and self.waiting and self.waiting[0][0] <= self.now:
            _, takes = self.waiting.pop(0)
            self.held.append((self.now, self.now + takes))
            self.done += 1

    def times(self, phase: Phase) -> list[float]:
        return [at for at, each in self.phases if each is phase]


def busy_with(seconds: float, for_seconds: float) -> list[tuple[float, float]]:
    """Work without end: there is always a next task."""
    return [(0.0, seconds)] * int(World.slots * for_seconds / seconds + 10)


class Believer(World):
    """With an agent that always answers: what is held is protected, at any time."""

    def check(self) -> None:
        assert not (self.held or self.is_open) or self.protected_until > self.now - 1.0


def test_nothing_is_received_before_the_task_is_protected():
    world = World(busy_with(1, 10))
    assert not world.protection.look(0.0, Facts(0)).may_receive
    world.run(3)
    assert world.asked[0][:2] == (0.0, True)
    assert world.done > 0


def test_an_idle_worker_is_unprotected_for_half_a_minute_every_five():
    world = Believer().run(3600)
    gaps = [later - earlier for earlier, later in pairwise(world.times(Phase.WAITING))]
    assert len(gaps) >= 9
    assert all(330 <= gap <= 345 for gap in gaps)


def test_a_busy_worker_lets_go_as_well_and_works_most_of_the_time():
    world = Believer(busy_with(20, 3600)).run(3600)
    assert len(world.times(Phase.WAITING)) >= 9
    assert world.done > 2 * 3600 / 20 * 0.8


def test_while_a_long_task_is_finished_others_have_not_idled_for_longer_than_they_worked():
    """After its first stretch, which cannot know how long tasks are."""
    world = Believer([(0.0, 1700.0), (0.0, 3000.0), (0.0, 900.0)] * 30).run(40_000)
    begun, finishing, waiting = (world.times(phase) for phase in (Phase.RECEIVING, Phase.FINISHING, Phase.WAITING))
    stretches = [end - start for start, end in zip(begun[1:], finishing[1:], strict=False)]
    drains = [end - start for start, end in zip(finishing[1:], waiting[1:], strict=False)]
    assert len(drains) > 2
    assert max(drains) > 500
    assert all(drain <= stretch for stretch, drain in zip(stretches, drains, strict=False))


def test_a_newer_release_makes_it_let_go_at_once_and_only_once():
    world = Believer(busy_with(20, 3600), release=lambda now: "2" if now >= 100 else "").run(3600)
    finishing = world.times(Phase.FINISHING)
    assert 100 <= finishing[0] <= 102
    assert world.times(Phase.WAITING)[0] <= 100 + 20 + 3
    assert finishing[1] - finishing[0] > RULES.receiving


def test_what_comes_while_it_makes_up_its_mind_keeps_it_protected():
    """Between two polls nothing is under way, and a message may come before the step is taken."""
    world = Believer([(float(at), 10.0) for at in range(295, 320)])
    world.polls = 0
    world.run(400)
    assert world.times(Phase.WAITING) != []


def test_a_release_after_the_next_makes_it_let_go_again():
    world = Believer(release=lambda now: "2" if 100 <= now < 200 else "3" if now >= 200 else "").run(400)
    assert len([at for at in world.times(Phase.FINISHING) if at < 210]) == 2


def test_without_an_agent_it_works_all_the_time_and_asks_now_and_then():
    world = World(busy_with(10, 3600), answer=lambda now, asked: REFUSED).run(3600)
    assert world.times(Phase.FINISHING) == []
    assert world.done > 2 * 3600 / 10 * 0.9
    assert 10 < len(world.asked) < 30


def test_an_agent_that_comes_back_is_noticed_within_minutes():
    world = World(answer=lambda now, asked: REFUSED if now < 1000 else GRANTED).run(1000 + RULES.again_at_most + 2)
    assert world.protected_until > world.now


def test_an_agent_that_will_not_unprotect_does_not_keep_it_from_work():
    """Still protected, it would wait for a stop that cannot come."""
    world = Believer(busy_with(10, 3600), answer=lambda now, asked: Answer(asked, why="away")).run(3600)
    assert world.times(Phase.WAITING) == []
    assert world.done > 2 * 3600 / 10 * 0.7


def test_a_service_that_wants_fewer_tasks_is_given_some_time_to_stop_this_one_and_then_it_works_on():
    world = World(busy_with(10, 600), answer=lambda now, asked: UNWANTED).run(600)
    begun = world.times(Phase.RECEIVING)[0]
    assert begun == RULES.most_waits * RULES.waiting
    assert len([at for at, _, _ in world.asked if at <= begun]) == RULES.most_waits + 1
    assert world.done > 0


@pytest.mark.parametrize("limit", [120.0, 900.0, 11 * 3600.0])
@pytest.mark.parametrize("until", [10.0, 301.0, 2000.0])
def test_where_ecs_renews_no_more_what_is_held_ends_while_it_is_protected(limit, until):
    """It refuses where more tasks are protected than it wants, for as long as that lasts."""

    class Guarded(World):
        def check(self) -> None:
            # Once it has waited for its end and nobody came, it works on, protected or not.
            if len(self.times(Phase.RECEIVING)) <= 1:
                assert not self.held or self.protected_until > self.now - 1.0

    rules = for_tasks_of(RULES, limit)
    work = [(float(at), limit) for at in range(0, 4000, 50)]
    refuses = Guarded(work, answer=lambda now, asked: UNWANTED if asked and now >= until else GRANTED, rules=rules)
    refuses.run(3 * limit + 4000)
    assert refuses.times(Phase.WAITING) != []


def test_workers_that_start_together_do_not_pause_together():
    first, second = (Believer(rules=Rules(jitter=jitter)).run(400) for jitter in (0.0, 0.2))
    assert second.times(Phase.WAITING)[0] - first.times(Phase.WAITING)[0] >= RULES.waiting


SECONDS = st.floats(0.0, 4000.0)
WORK = st.lists(st.tuples(SECONDS, st.floats(0.5, 2000.0)), max_size=40)
AWAY = st.lists(st.tuples(SECONDS, st.floats(1.0, 900.0)), max_size=4)


@settings(max_examples=60, deadline=None)
@given(WORK, st.lists(SECONDS, max_size=3), st.sampled_from([0, 1]))
def test_while_the_agent_answers_nothing_is_ever_held_without_protection(work, releases, polls):
    """Whatever comes when, however long it takes, and whatever is deployed meanwhile. polls: 0, between two of them."""
    world = Believer(work, release=lambda now: str(sum(at <= now for at in releases) or ""))
    world.polls = polls
    world.run(4000)
    # Two renewals an expiry, and two questions a cycle.
    assert len(world.asked) <= 4000 / (RULES.expires / 2) + 3 * (len(world.times(Phase.WAITING)) + 1)


@settings(max_examples=60, deadline=None)
@given(WORK, AWAY, AWAY)
def test_whatever_the_agent_says_all_work_is_received_in_the_end(work, away, unwanted):
    def answer(now: float, asked: bool) -> Answer:
        if any(at <= now < at + lasts for at, lasts in away):
            return REFUSED
        return UNWANTED if asked and any(at <= now < at + lasts for at, lasts in unwanted) else GRANTED

    world = World(work, answer=answer)
    world.slots = len(work) or 1
    world.run(4000 + 2 * 2000 + RULES.waiting * (RULES.most_waits + 1) + 10)
    assert world.waiting == []


@settings(max_examples=60, deadline=None)
@given(WORK)
def test_a_worker_is_stoppable_within_the_longer_of_five_minutes_and_twice_its_longest_task(work):
    """Counted from when it last was; the work of the stretch before, and of this one, decides."""
    world = Believer(work).run(8000)
    longest = max((takes for _, takes in work), default=0.0)
    stops = [0.0, *world.times(Phase.WAITING)]
    bound = max(RULES.receiving, longest) + longest + RULES.waiting + 5
    assert all(later - earlier <= bound for earlier, later in pairwise(stops))
    assert world.now - stops[-1] <= bound


@pytest.mark.parametrize("asked", [True, False])
def test_a_step_that_asks_nothing_is_not_repeated_meanwhile(asked):
    """A slow answer is waited for by whoever asks, and the next look asks anew only after it."""
    protection = Protection(RULES, 0.0)
    assert protection.look(0.0, Facts(0)).ask is True
    protection.answered(8.0, True, GRANTED if asked else REFUSED)
    assert protection.look(9.0, Facts(1)).ask is None
    assert protection.phase is Phase.RECEIVING
