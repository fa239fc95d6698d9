"""Holds ops/datadog against Datadog's own code: its API client reads the monitors, its OpenMetrics check reads a live worker.

check.py OPS ENDPOINT; the folder of the packages is in PYTHONPATH.
"""

import json
import re
import sys
from pathlib import Path

import yaml
from datadog_api_client.configuration import Configuration
from datadog_api_client.model_utils import validate_and_convert_types
from datadog_api_client.v1.model.monitor import Monitor
from datadog_checks.base.checks.openmetrics.v2.base import OpenMetricsBaseCheckV2
from datadog_checks.base.stubs import aggregator


class Check(OpenMetricsBaseCheckV2):
    __NAMESPACE__ = ""


def submitted(instance):
    """What the agent would send of this endpoint: names and the keys of their tags."""
    check = Check("openmetrics", {}, [instance])
    # Counters are sent as the difference to the look before.
    for _ in range(2):
        said = check.run()
        assert said == "", said
    found = {}
    for name in aggregator.metric_names:
        tags = [tag.split(":")[0] for metric in aggregator.metrics(name) for tag in metric.tags]
        found[name] = set(tags) | {"host"}
    return found


def read(monitor):
    """As the client would send it; an unknown key, type or value is an error."""
    model = validate_and_convert_types(
        monitor, (Monitor,), ["monitor"], True, True, configuration=Configuration()
    )
    parts = [model, model.options, model.options.thresholds]
    for part in parts:
        assert not getattr(part, "_unparsed", False), (monitor["name"], part)
        unknown = set(part.to_dict()) - set(type(part).openapi_types)
        assert not unknown, (monitor["name"], unknown)


def main(ops, endpoint):
    conf = yaml.safe_load((ops / "datadog/openmetrics.d/conf.yaml").read_text())
    (instance,) = conf["instances"]
    instance["openmetrics_endpoint"] = endpoint
    found = submitted(instance)
    named = [name for entry in instance["metrics"] for name in entry.values()]
    for name in named:
        sent = [f"noshi.{name}{part}" for part in ("", ".count", ".bucket")]
        assert any(one in found for one in sent), f"{name} is configured and not sent"
    monitors = json.loads((ops / "datadog/monitors.json").read_text())
    for monitor in monitors:
        read(monitor)
        query = monitor["query"]
        if monitor["type"] == "service check":
            name = query.split('"')[1]
            assert aggregator.service_checks(name), name
            continue
        used = re.findall(r"(noshi\.[a-z_.]+)\{([^}]*)\}(?: by \{([^}]*)\})?", query)
        assert used, query
        for name, scope, by in used:
            assert name in found, f"{monitor['name']}: {name} is not sent"
            tags = re.findall(r"([a-z_]+)(?::| IN | NOT IN )", scope) + [tag for tag in by.split(",") if tag]
            assert set(tags) <= found[name], f"{monitor['name']}: {name} has no tags {tags}"
        window, threshold = re.match(r"(?:min|max|sum|avg)\(last_(\d+[mh])\):", query), re.search(r"[<>]=? (\S+)$", query)
        assert window and float(threshold[1]) == monitor["options"]["thresholds"]["critical"], query
    print(f"{len(monitors)} monitors, {len(named)} metrics configured, {len(found)} sent")


main(Path(sys.argv[1]), sys.argv[2])
