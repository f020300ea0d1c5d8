"""A strict reader of Prometheus' text format 0.0.4: parse(text) gives {name with labels: value} or raises ValueError.

Stricter than Prometheus itself: every sample stands under a TYPE line of its family, families do not mix, counters end in
_total and are not negative, histograms are cumulative, have +Inf, and agree with their _count.
"""
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?[0-9.]+(?:e[+-]?[0-9]+)?|\+Inf|-Inf|NaN)$")
HELP = re.compile(rf"# HELP ({NAME}) ((?:[^\\]|\\[\\n])*)$")
TYPE = re.compile(rf"# TYPE ({NAME}) (counter|gauge|histogram|summary|untyped)$")


def family_of(name, families):
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and families.get(base) == "histogram":
            return base
    return name


def check_histogram(name, samples):
    buckets = [(k, v) for k, v in samples.items() if k.startswith(f"{name}_bucket{{")]
    if not buckets or not buckets[-1][0].endswith('le="+Inf"}'):
        raise ValueError(f"{name} does not end with +Inf")
    bounds = [float(re.search(r'le="([^"]+)"', k)[1]) for k, _ in buckets]
    values = [v for _, v in buckets]
    if bounds != sorted(set(bounds)) or values != sorted(values) or values[-1] != samples[f"{name}_count"]:
        raise ValueError(f"{name} is not cumulative")
    if f"{name}_sum" not in samples:
        raise ValueError(f"{name} has no sum")


def parse(text):
    if not text.endswith("\n"):
        raise ValueError("no line end at the end")
    families, helps, samples, current = {}, set(), {}, None
    for line in text[:-1].split("\n"):
        if m := HELP.match(line):
            if m[1] in helps:
                raise ValueError(f"HELP twice: {line}")
            helps.add(m[1])
        elif m := TYPE.match(line):
            if m[1] in families:
                raise ValueError(f"TYPE twice: {line}")
            current, families[m[1]] = m[1], m[2]
            if m[2] == "counter" and not m[1].endswith("_total"):
                raise ValueError(f"a counter's name: {line}")
        elif m := SAMPLE.match(line):
            if family_of(m[1], families) != current or current not in helps:
                raise ValueError(f"outside of its family: {line}")
            key, value = line.rsplit(" ", 1)
            if key in samples or (families[current] == "counter" and not float(value) >= 0):
                raise ValueError(f"twice, or negative: {line}")
            samples[key] = float(value)
        else:
            raise ValueError(f"not of the format: {line!r}")
    for name, kind in families.items():
        if kind == "histogram":
            check_histogram(name, samples)
    return samples
