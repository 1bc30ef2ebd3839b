"""Schemas whose every answer is short, so that even a model that knows nothing comes to an end."""

import json

import jsonschema

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Lima", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "metric": {"type": "boolean"},
    },
    "required": ["city", "days", "metric"],
    "additionalProperties": False,
}

TICKET = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["bug", "idea", "other"]}, "maxItems": 3},
        "priority": {"type": "integer", "minimum": -5, "maximum": 5},
    },
    "required": ["title", "tags", "priority"],
    "additionalProperties": False,
}

NESTED = {
    "type": "object",
    "properties": {
        "point": {"$ref": "#/$defs/point"},
        "path": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 2},
        "name": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
    },
    "required": ["point", "path", "name"],
    "additionalProperties": False,
    "$defs": {
        "point": {
            "type": "object",
            "properties": {
                "x": {"type": "integer", "minimum": 0, "maximum": 99},
                "y": {"type": "integer", "minimum": 0, "maximum": 99},
            },
            "required": ["x", "y"],
            "additionalProperties": False,
        }
    },
}

CHOICE = {
    "type": "object",
    "properties": {"kind": {"const": "choice"}, "value": {"enum": ["a", 1, True, None]}},
    "required": ["kind", "value"],
    "additionalProperties": False,
}

ALL = {"weather": WEATHER, "ticket": TICKET, "nested": NESTED, "choice": CHOICE}


def parsed(text: str, schema: dict) -> object:
    """What `text` says, which must be JSON by the schema."""
    value = json.loads(text)
    jsonschema.validate(value, schema)
    return value
