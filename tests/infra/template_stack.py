"""The template with its functions resolved as by CloudFormation, without an account."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

ACCOUNT = "123456789012"
REGION = "eu-west-3"
NAME = "fruits"

# The parameters of a user; the others have defaults.
PARAMETERS = {
    "BucketName": "team-fruits",
    "AlertEmail": "team@example.org",
    "VpcId": "vpc-0123456789abcdef0",
    "PrivateSubnetCidr": "172.31.240.0/24",
}
WITH_SOURCE = {**PARAMETERS, "SourceBucketName": "photos"}
OWN_SUBNETS = {
    "BucketName": "team-fruits",
    "AlertEmail": "team@example.org",
    "VpcId": "vpc-0123456789abcdef0",
    "SubnetIds": "subnet-1,subnet-2",
}

_NOTHING: Any = object()  # AWS::NoValue


@dataclass
class Stack:
    """Resolves the intrinsic functions that the template uses, and raises for others."""

    template: dict[str, Any]
    parameters: dict[str, str] = field(default_factory=lambda: dict(WITH_SOURCE))
    region: str = REGION

    def resources(self, kind: str = "") -> dict[str, dict[str, Any]]:
        """Properties of the created resources, by logical id; ``kind`` limits them to one type."""
        return {
            name: self.value(resource.get("Properties", {}))
            for name, resource in self.template["Resources"].items()
            if kind in ("", resource["Type"]) and self.condition(resource.get("Condition"))
        }

    def outputs(self) -> dict[str, str]:
        return {name: self.value(output["Value"]) for name, output in self.template["Outputs"].items()}

    def environment(self) -> dict[str, str]:
        """The variables of the output `Environment`, as a shell reads them."""
        lines = self.outputs()["Environment"].splitlines()
        pairs = (line.partition("=") for line in lines)
        return {name: value.strip("'") for name, _, value in pairs}

    def arn(self, name: str) -> str:
        return str(self.value({"Fn::GetAtt": [name, "Arn"]}))

    def statements(self, name: str) -> list[dict[str, Any]]:
        """All statements of a role's own policies."""
        return [
            statement
            for policy in self.resources()[name]["Policies"]
            for statement in policy["PolicyDocument"]["Statement"]
        ]

    def condition(self, name: str | None) -> bool:
        return name is None or bool(self.value(self.template["Conditions"][name]))

    def refused_because(self) -> list[str]:
        """The messages of the template's rules that this deployment breaks."""
        broken = []
        for rule in self.template["Rules"].values():
            if "RuleCondition" in rule and not self.value(rule["RuleCondition"]):
                continue
            broken += [
                assertion["AssertDescription"]
                for assertion in rule["Assertions"]
                if not self.value(assertion["Assert"])
            ]
        return broken

    def value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [item for item in map(self.value, value) if item is not _NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument), *_ = value.items()
            if name == "Ref":
                return self._ref(argument)
            if name == "Condition" and isinstance(argument, str):
                return self.condition(argument)
            if name.startswith("Fn::"):
                return self._function(name.removeprefix("Fn::"), argument)
        filled = {key: self.value(item) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item is not _NOTHING}

    def _function(self, name: str, argument: Any) -> Any:
        if name == "If":
            condition, yes, no = argument
            return self.value(yes if self.condition(condition) else no)
        if name == "Sub":
            text, own = argument if isinstance(argument, list) else (argument, {})
            return re.sub(r"\$\{([^}]+)\}", lambda match: str(self._named(match[1], own)), text)
        if name == "GetAtt":
            return self._attribute(*argument)
        arguments = self.value(argument)
        if name == "Equals":
            return arguments[0] == arguments[1]
        if name == "And":
            return all(arguments)
        if name == "Not":
            return not arguments[0]
        if name == "Join":
            return arguments[0].join(arguments[1])
        if name == "Contains":
            return arguments[1] in arguments[0]
        raise NotImplementedError(f"Fn::{name}")

    def _named(self, name: str, own: dict[str, Any]) -> Any:
        if name in own:
            return self.value(own[name])
        resource, _, attribute = name.partition(".")
        return self._attribute(resource, attribute) if attribute else self._ref(name)

    def _ref(self, name: str) -> Any:
        pseudo = {
            "AWS::AccountId": ACCOUNT,
            "AWS::NoValue": _NOTHING,
            "AWS::Partition": "aws",
            "AWS::Region": self.region,
            "AWS::StackName": NAME,
        }
        if name in pseudo:
            return pseudo[name]
        if name in self.template["Parameters"]:
            parameter = self.template["Parameters"][name]
            value = self.parameters.get(name, parameter.get("Default"))
            if value is None:
                raise KeyError(f"parameter {name} has no value")
            return value.split(",") if parameter["Type"] == "CommaDelimitedList" else value
        properties = self.template["Resources"][name].get("Properties", {})
        for given in ("BucketName", "InstanceProfileName"):
            if given in properties:
                return self.value(properties[given])
        if self.template["Resources"][name]["Type"] == "AWS::SNS::Topic":
            return f"arn:aws:sns:{self.region}:{ACCOUNT}:{NAME}-{name}"
        if self.template["Resources"][name]["Type"] == "AWS::EC2::Subnet":
            return f"subnet-{name.lower()}"
        return f"{NAME}-{name}"

    def _attribute(self, name: str, attribute: str) -> str:
        if attribute != "Arn":
            raise NotImplementedError(f"{name}.{attribute}")
        own = self._ref(name)
        return {
            "AWS::Events::Rule": f"arn:aws:events:{self.region}:{ACCOUNT}:rule/{own}",
            "AWS::IAM::InstanceProfile": f"arn:aws:iam::{ACCOUNT}:instance-profile/{own}",
            "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{own}",
            "AWS::S3::Bucket": f"arn:aws:s3:::{own}",
        }[self.template["Resources"][name]["Type"]]
