"""Gives tests/e2e/manifests.rs the Python packages of target/lab/kubernetes, as filters from JSON or YAML to JSON.

    yaml                            YAML documents -> list of objects
    chart DIRECTORY VALUES-FILE...  more values -> list of objects, as Helm renders them
    notes DIRECTORY VALUES-FILE...  more values -> what Helm says after an installation
    lint DIRECTORY                  values -> list of what `helm lint --strict` finds
    package DIRECTORY TO            -> the packed chart
    toml                            TOML -> its content
    validate VERSION                list of objects -> list of what is wrong by Kubernetes' schemas of that version
    admit                           policy and request -> list of messages of the ValidatingAdmissionPolicy's refusals
"""

import json
import sys

import yaml


def objects(text):
    return [document for document in yaml.safe_load_all(text) if document]


def rendered(directory, *files):
    """What Helm makes of each template."""
    import helm_python

    values = {}
    for layer in [*(open(file).read() for file in files), sys.stdin.read()]:
        for key, value in (yaml.safe_load(layer) or {}).items():
            old = values.get(key)
            values[key] = {**old, **value} if isinstance(old, dict) else value
    with helm_python.Chart.load(directory) as loaded:
        loaded.validate_schema(loaded.merge_values(values))
        return loaded.render(values, name="iocast", namespace="iocast")


def chart(*arguments):
    texts = rendered(*arguments).items()
    return [item for name, text in texts if name.endswith(".yaml") for item in objects(text)]


def notes(*arguments):
    return next(text for name, text in rendered(*arguments).items() if name.endswith("NOTES.txt"))


def lint(directory):
    import helm_python

    found = helm_python.lint(directory, json.load(sys.stdin), strict=True)
    return [message["error"] for message in found["messages"]] + found["errors"]


def package(directory, to):
    import helm_python

    return helm_python.package(directory, destination=to)


def toml():
    import tomllib

    return tomllib.loads(sys.stdin.read())


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


def yaml_objects():
    return objects(sys.stdin.read())


verbs = {"yaml": yaml_objects, **{verb.__name__: verb for verb in [chart, notes, lint, package, toml, validate, admit]}}
json.dump(verbs[sys.argv[1]](*sys.argv[2:]), sys.stdout)
