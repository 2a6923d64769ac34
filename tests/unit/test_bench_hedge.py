"""What `bench hedge` makes of its trials, and of its arguments."""

import pytest

from orioncache.bench.hedge.figures import extra_reads, figures, quantile
from orioncache.bench.hedge.measuring import Trial
from orioncache.cli import main

FAILOVER = {"hedges": 3, "resent": 1, "switches": 1}


def _trial(condition: str, latencies: list[float], by_server: list[int]) -> Trial:
    return Trial(condition, 0, len(latencies), by_server, 2, FAILOVER, latencies)


def test_quantiles_are_latencies_that_were_measured() -> None:
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([float(number) for number in range(1000)], 0.999) == 999.0
    assert quantile([5.0], 0.999) == 5.0


def test_extra_reads_are_those_beyond_one_for_each_block() -> None:
    trials = [_trial("healthy", [1.0] * 100, [101, 3]), _trial("healthy", [1.0] * 100, [100, 0])]
    assert extra_reads(trials) == 2.0


@pytest.mark.parametrize(("tail", "asked", "met"), [(90.0, 104, True), (110.0, 106, False)])
def test_both_figures_are_held_against_their_bars(tail: float, asked: int, met: bool) -> None:
    trials = [
        _trial("healthy", [1.0] * 100, [asked, 0]),
        _trial("unhedged", [1.0] * 99 + [500.0], [100, 0]),
        _trial("hedged", [1.0] * 99 + [tail], [100, 3]),
    ]
    judged = [figure for figure in figures(trials) if figure.bar is not None]
    assert [figure.value for figure in judged] == [pytest.approx(asked - 100), pytest.approx(tail / 500)]
    assert [figure.met for figure in judged] == [met, met]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--late=0"], "no whole number from 1 to 100"),
        (["--by=soon"], "no duration"),
        (["--latency=5ms-1ms"], "the second is the longer one"),
        (["--reads=0"], "no number from 1"),
    ],
)
def test_bad_arguments_get_one_line(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "hedge", *words])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
