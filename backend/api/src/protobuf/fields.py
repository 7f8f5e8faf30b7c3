#!/usr/bin/env python3
"""Renews fields.txt: which number each field has in Kubernetes' protobuf encoding, read off the tags of its Go structs.

Usage: fields.py FOLDER >fields.txt, where FOLDER holds checkouts (of one release) of the repositories `api`,
`apimachinery`, `apiextensions-apiserver` and `kube-aggregator` of the Kubernetes organisation.

A line is a message, then its fields as NAME=NUMBER:TYPE. Before TYPE, `*` is a list and `%` a map from strings; TYPE is
`s` string, `b` bytes, `i` integer, `t` boolean, `d` double or a message. After TYPE, `?` is a field whose presence
counts (a pointer in Go), `!` one that is written even when zero (no omitempty). NAME `<` holds the fields of its message
in the place of its own.
"""
import os
import re
import sys

ROOTS = {
    "api": lambda path: path.split("/")[1:3],
    "apimachinery": lambda path: {
        "apimachinery/pkg/apis/meta/v1": ["meta", "v1"],
        "apimachinery/pkg/runtime": ["runtime", ""],
        "apimachinery/pkg/types": ["types", ""],
    }.get(path),
    "apiextensions-apiserver": lambda path: ["apiextensions", "v1"] if path.endswith("pkg/apis/apiextensions/v1") else None,
    "kube-aggregator": lambda path: ["apiregistration", "v1"] if path.endswith("pkg/apis/apiregistration/v1") else None,
}
# Written by hand in Go: JSON and protobuf differ, so the reader knows them by name.
SPECIAL = {
    "meta.v1.Time", "meta.v1.MicroTime", "meta.v1.Duration", "meta.v1.FieldsV1", "resource.Quantity",
    "intstr.IntOrString", "runtime.RawExtension", "apiextensions.v1.JSON", "apiextensions.v1.JSONSchemaPropsOrBool",
    "apiextensions.v1.JSONSchemaPropsOrArray", "apiextensions.v1.JSONSchemaPropsOrStringArray",
}
# Served kinds, by group; each version that the group has as stable, and what calls carry besides stored kinds.
SERVED = {
    "core": "v1", "apps": "v1", "batch": "v1", "autoscaling": "v1 v2", "policy": "v1", "networking": "v1",
    "discovery": "v1", "events": "v1", "storage": "v1", "scheduling": "v1", "node": "v1", "coordination": "v1",
    "rbac": "v1", "authentication": "v1", "authorization": "v1", "certificates": "v1", "admissionregistration": "v1",
    "apiextensions": "v1", "apiregistration": "v1", "flowcontrol": "v1", "resource": "v1",
}
OPTIONS = ["meta.v1.DeleteOptions"]

FIELD = re.compile(r"^\t(?:(\w+)\s+)?([\w.*\[\]]+)\s+`(.*)`")
TAG = re.compile(r'(json|protobuf):"([^"]*)"')


def read(folder):
    structs, aliases, imports = {}, {}, {}
    for repository, place in ROOTS.items():
        for at, _, files in os.walk(os.path.join(folder, repository)):
            where = place(os.path.relpath(at, folder))
            if not where or len(where) != 2:
                continue
            package = ".".join(part for part in where if part)
            for file in sorted(files):
                if file.endswith(".go") and not file.startswith(("zz_", "generated")) and not file.endswith("_test.go"):
                    with open(os.path.join(at, file)) as text:
                        parse(text.read(), package, structs, aliases, imports)
    return structs, aliases, imports


def parse(text, package, structs, aliases, imports):
    for name, path in re.findall(r'^\t(?:(\w+) )?"k8s.io/([\w./-]+)"', text, re.M):
        parts = path.split("/")
        target = {
            "apimachinery/pkg/apis/meta/v1": "meta.v1", "apimachinery/pkg/runtime": "runtime",
            "apimachinery/pkg/types": "types", "apimachinery/pkg/api/resource": "resource",
            "apimachinery/pkg/util/intstr": "intstr",
        }.get(path) or (".".join(parts[1:3]) if parts[0] == "api" else None)
        if target:
            imports.setdefault(package, {})[name or parts[-1]] = target
    for name, kind in re.findall(r"^type (\w+) =? ?([\w.\[\]*]+)$", text, re.M):
        aliases[f"{package}.{name}"] = kind
    for name in re.findall(r"^type (\w+) struct ?\{\}", text, re.M):
        structs[f"{package}.{name}"] = []
    for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
        fields = []
        for line in body.split("\n"):
            found = FIELD.match(line)
            if not found:
                continue
            tags = dict(TAG.findall(found[3]))
            if "protobuf" in tags:
                fields.append((found[2], tags.get("json", ""), tags["protobuf"]))
        structs[f"{package}.{name}"] = fields


class Table:
    def __init__(self, structs, aliases, imports):
        self.structs, self.aliases, self.imports, self.lines = structs, aliases, imports, {}

    def full(self, package, name):
        if "." in name:
            short, name = name.split(".", 1)
            package = self.imports.get(package, {}).get(short, short)
        return f"{package}.{name}"

    def kind(self, package, go, wire):
        """A Go type as (prefix, TYPE)."""
        if go == "[]byte":
            return "", "b"
        if go.startswith("[]"):
            return "*", self.kind(package, go[2:], wire)[1]
        if go.startswith("map[string]") or go.startswith("map["):
            inner = go[go.index("]") + 1 :]
            return "%", self.kind(package, inner, wire)[1]
        go = go.lstrip("*")
        scalar = {"string": "s", "bool": "t", "float64": "d", "int": "i", "int32": "i", "int64": "i", "uint32": "i",
                  "uint64": "i", "uint8": "i", "byte": "i"}.get(go)
        if scalar:
            return "", scalar
        full = self.full(package, go)
        if full in SPECIAL:
            return "", full
        if full in self.structs:
            self.add(full)
            return "", full
        if full in self.aliases:
            target = self.aliases[full]
            if target.startswith("[]") and target != "[]byte":
                # A named list is a message of its own: {items}.
                self.lines.setdefault(full, f"{full} []=1:*{self.kind(full.rsplit('.', 1)[0], target[2:], wire)[1]}")
                return "", full
            return self.kind(full.rsplit(".", 1)[0], target, wire)
        sys.exit(f"unknown Go type {go} in {package}")

    def add(self, full):
        if full in self.lines:
            return
        self.lines[full] = ""
        package = full.rsplit(".", 1)[0]
        fields = []
        for go, json, protobuf in self.structs[full]:
            wire, number, *_ = protobuf.split(",")
            name, *options = json.split(",")
            prefix, kind = self.kind(package, go, wire)
            embedded = "inline" in options or name == ""
            presence = "?" if go.startswith("*") else "" if "omitempty" in options or "omitzero" in options else "!"
            fields.append(f"{'<' if embedded else name}={number}:{prefix}{kind}{'' if embedded else presence}")
        self.lines[full] = " ".join([full, *fields])


def main():
    table = Table(*read(sys.argv[1]))
    for group, versions in SERVED.items():
        for version in versions.split():
            for full, fields in sorted(table.structs.items()):
                # A kind has metadata; lists are only ever sent, so nobody reads them.
                own = full.rsplit(".", 1)[0] == f"{group}.{version}"
                if own and any(json.split(",")[0] == "metadata" for _, json, _ in fields) and not full.endswith("List"):
                    table.add(full)
    for full in OPTIONS:
        table.add(full)
    print("\n".join(line for _, line in sorted(table.lines.items())))


if __name__ == "__main__":
    main()
