"""Holds rendered manifests to Kubernetes' schemas and to each other: manifests.py [--binary SPARKV] FILE...

Called by scripts/check/manifests. Prints what it finds and fails if there is anything.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml

# Time for a process to end after its last answer.
MARGIN_SECONDS = 5


def schema_faults(resource):
    """What the newest schemas say against it, unknown fields included; None if they do not know the kind."""
    try:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return None
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def whole_faults(resources):
    """Where parts do not fit together: names that nothing has, selectors that miss the pods, too little time to drain."""
    of_kind = {kind: [one for one in resources if one["kind"] == kind] for kind in {one["kind"] for one in resources}}
    [deployment] = of_kind["Deployment"]
    pod = deployment["spec"]["template"]
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    name = deployment["metadata"]["name"]
    selectors = [("Deployment", deployment["spec"]["selector"]["matchLabels"])]
    selectors += [("Service", one["spec"]["selector"]) for one in of_kind["Service"]]
    selectors += [("PodDisruptionBudget", one["spec"]["selector"]["matchLabels"]) for one in of_kind["PodDisruptionBudget"]]
    selectors += [("NetworkPolicy", one["spec"]["podSelector"]["matchLabels"]) for one in of_kind["NetworkPolicy"]]
    selectors += [("InferencePool", one["spec"]["selector"]["matchLabels"]) for one in of_kind.get("InferencePool", [])]
    faults = [f"the {kind}'s selector misses the pods" for kind, selector in selectors if not selects(selector, labels)]
    for one in of_kind.get("ServiceMonitor", []):
        wanted = one["spec"]["selector"]["matchLabels"]
        if not any(selects(wanted, service["metadata"]["labels"]) for service in of_kind["Service"]):
            faults.append("the ServiceMonitor misses the service")
    for one in of_kind.get("ScaledObject", []):
        if one["spec"]["scaleTargetRef"]["name"] != name or "replicas" in deployment["spec"]:
            faults.append("the ScaledObject scales something else, or against a fixed number")
    names = {one["metadata"]["name"] for one in of_kind["ConfigMap"]}
    if not {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume} <= names:
        faults.append("the pods mount a ConfigMap that is not there")
    server = tomllib.loads(settings(resources))["server"]
    needed = server.get("drain_delay_seconds", 0) + server.get("drain_seconds", 30) + MARGIN_SECONDS
    if spec["terminationGracePeriodSeconds"] < needed:
        faults.append(f"terminationGracePeriodSeconds is below the {needed} s that a drain may take")
    return faults


def settings(resources):
    """The text of the server's settings."""
    [text] = [one["data"]["sparkv.toml"] for one in resources if one["kind"] == "ConfigMap"]
    return text


def refused(binary, text):
    """What the server itself says against its settings. The keys' file is one that is there here."""
    with tempfile.TemporaryDirectory() as folder:
        keys, file = Path(folder) / "keys.txt", Path(folder) / "sparkv.toml"
        keys.write_text("a-key\n")
        file.write_text(text.replace("/etc/sparkv/keys/keys.txt", str(keys)))
        done = subprocess.run([binary, "config", "check", file], capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [done.stderr.strip()]


def main(arguments):
    binary = None
    if arguments[0] == "--binary":
        binary, arguments = arguments[1], arguments[2:]
    faults, checked, unknown = [], 0, set()
    for path in map(Path, arguments):
        resources = [one for one in yaml.safe_load_all(path.read_text()) if one]
        found = whole_faults(resources)
        for resource in resources:
            said = schema_faults(resource)
            if said is None:
                unknown.add(f"{resource['apiVersion']} {resource['kind']}")
                continue
            checked += 1
            found += [f"{resource['kind']}: {fault}" for fault in said]
        # The rest of what GPUs are asked for is checked by a binary that knows none.
        if binary:
            found += refused(binary, settings(resources).replace('device = "cuda"', 'device = "cpu"'))
        faults += [f"{path.name}: {fault}" for fault in found]
    for kind in sorted(unknown):
        print(f"not held to a schema: {kind}")
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{checked} resources in {len(arguments)} files: {len(faults)} faults")
    return 1 if faults or not checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
