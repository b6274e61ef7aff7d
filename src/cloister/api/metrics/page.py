"""One scrape: the declared series, filled with values, in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cloister.api.metrics.series import SERIES, Series
from cloister.model.durations import DurationCounts

__all__ = ["Page"]

_FAMILIES: dict[str, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
_BY_NAME = {series.name: series for series in SERIES}


class Page(Collector):
    """The values of one scrape. A series that nothing was put into has its head alone."""

    def __init__(self) -> None:
        self._families = {one.name: _FAMILIES[one.kind](one.name, one.help, labels=one.labels) for one in SERIES}

    def put(self, name: str, value: float, *labels: str) -> None:
        """Add a sample of a counter or gauge."""
        family = self._family(name, labels)
        assert not isinstance(family, HistogramMetricFamily), f"{name} is a histogram"
        family.add_metric(labels, value)

    def put_all(self, name: str, values: Mapping[str, float], names: Iterable[str] | None = None) -> None:
        """Add a sample for each of ``names``, which is zero if ``values`` has none; for every value if there are no ``names``."""
        for label in values if names is None else names:
            self.put(name, values.get(label, 0), label)

    def put_durations(self, name: str, times: DurationCounts, *labels: str) -> None:
        """Add a histogram."""
        family = self._family(name, labels)
        assert isinstance(family, HistogramMetricFamily), f"{name} is no histogram"
        bounds = [*(str(bound) for bound in times.bounds_s), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(times.counts), strict=True)), times.sum_s)

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        yield from self._families.values()

    def render(self) -> bytes:
        """The text. Takes milliseconds."""
        return generate_latest(self)

    def _family(self, name: str, labels: tuple[str, ...]) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
        series: Series = _BY_NAME[name]
        if len(labels) != len(series.labels):
            raise ValueError(f"{name} has the labels {series.labels}, not {len(labels)}")
        return self._families[name]
