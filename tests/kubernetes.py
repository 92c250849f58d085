"""Gives tests/e2e/manifests.rs the Python packages of target/lab/kubernetes, as filters from JSON or YAML to JSON.

    yaml                            YAML documents -> list of objects
    chart DIRECTORY VALUES-FILE...  more values -> list of objects, as Helm renders them
    validate VERSION                list of objects -> list of what is wrong by Kubernetes' schemas of that version
    admit                           policy and request -> list of messages of the ValidatingAdmissionPolicy's refusals
"""

import json
import sys

import yaml


def objects(text):
    return [document for document in yaml.safe_load_all(text) if document]


def chart(directory, *files):
    import helm_python

    values = {}
    for layer in [*(open(file).read() for file in files), sys.stdin.read()]:
        for key, value in (yaml.safe_load(layer) or {}).items():
            old = values.get(key)
            values[key] = {**old, **value} if isinstance(old, dict) else value
    with helm_python.Chart.load(directory) as loaded:
        loaded.validate_schema(loaded.merge_values(values))
        rendered = loaded.render(values, name="iocast", namespace="iocast")
    return [item for text in rendered.values() for item in objects(text)]


def validate(version):
    import kubernetes_validate

    found = []
    for item in json.load(sys.stdin):
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            found.append(f"{item['kind']} {item['metadata']['name']}: {error.message}")
    return found


def admit():
    import cel

    asked = json.load(sys.stdin)
    # Of Kubernetes' own functions those that the policy calls.
    policy, context = asked.pop("policy")["spec"], {**asked, "variables": {}, "split": str.split, "trim": str.strip}
    if not all(cel.evaluate(condition["expression"], context) for condition in policy["matchConditions"]):
        return []
    for variable in policy["variables"]:
        context["variables"][variable["name"]] = cel.evaluate(variable["expression"], context)
    return [
        rule.get("message") or cel.evaluate(rule["messageExpression"], context)
        for rule in policy["validations"]
        if not cel.evaluate(rule["expression"], context)
    ]


verbs = {"yaml": lambda: objects(sys.stdin.read()), "chart": chart, "validate": validate, "admit": admit}
json.dump(verbs[sys.argv[1]](*sys.argv[2:]), sys.stdout)
