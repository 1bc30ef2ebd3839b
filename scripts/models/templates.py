"""What transformers makes of chat templates: the golden file of crates/sparkv-engine/tests/engine/templates.rs.

    .venv/bin/python scripts/models/templates.py > crates/sparkv-engine/tests/golden/templates.json
    .venv/bin/python scripts/models/templates.py FOLDER/*.jinja > templates.json

Without files, of templates that are made up here, variation by variation; with files, of these, each with the same
conversations (SPARKV_TEMPLATES=templates.json has the test read the file).
"""

import itertools
import json
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place, e.g. \"Köln\" <now>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where"},
                "days": {"type": "integer", "minimum": 1, "default": 3},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bonn", "days": 2}}}

USER = {"role": "user", "content": "How is it in Bonn?"}
SYSTEM = {"role": "system", "content": " Be brief. "}
SAID = {"role": "assistant", "content": "Fine, it's \"sunny\".\n"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
GAVE = {"role": "tool", "content": "21 °C", "tool_call_id": "call00001", "name": "get_weather"}

CONVERSATIONS = {
    "one": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [SYSTEM, USER, SAID, {"role": "user", "content": "  And now?"}]},
    "open": {"messages": [USER, SAID], "add_generation_prompt": False},
    "tools": {"messages": [USER], "tools": [TOOL]},
    "called": {"messages": [SYSTEM, USER, CALLED, GAVE], "tools": [TOOL]},
    "thinking": {"messages": [USER], "template_args": {"enable_thinking": False}},
}


def rendered(template: str, conversation: dict) -> dict:
    """What comes of it: `rendered`, or what was raised as `error`."""
    arguments = {
        "tools": conversation.get("tools"),
        "add_generation_prompt": conversation.get("add_generation_prompt", True),
        **conversation.get("template_args", {}),
    }
    try:
        [text], _ = render_jinja_template(
            [conversation["messages"]], chat_template=template, bos_token="<s>", eos_token="</s>", **arguments
        )
    except Exception as error:  # whatever the template does
        return {"error": f"{type(error).__name__}: {error}"}
    return {"rendered": text}


VALUES = {
    "text": "'it\\'s'",
    "quoted": "'say \"hi\"\\n'",
    "accent": "'Köln ☕ 🙂'",
    "true": "true",
    "none": "none",
    "int": "42",
    "float": "1.0",
    "small": "0.1",
    "list": "[1, 'a', none, [true]]",
    "empty": "[]",
    "dict": "{'b': 1, 'a': {'z': 'ä<', 'y': [1.5, false]}}",
    "no_dict": "{}",
}
SHOWN = ["{{ v }}", "{{ v | string }}", "{{ 'x' ~ v }}", "{{ v ~ 'x' ~ v }}", "{{ v | string | length }}", "{{ [v] }}", "{{ {'k': v} | string }}"]
DUMPED = [
    dict(zip(names, values))
    for names in [("ensure_ascii", "indent", "sort_keys", "separators")]
    for values in itertools.product([None, "true", "false"], [None, "2", "4"], [None, "true"], [None, "(',', ':')"])
]
METHODS = [
    "'abcab'.removeprefix('ab')", "'abcab'.removesuffix('ab')", "'abc'.removeprefix('x')", "'abc'.removesuffix('abc')",
    "' a b '.strip()", "'xxaxx'.strip('x')", "'a,b,c'.split(',')", "'a b  c'.split()", "'a,b,c'.split(',', 1)", "'a b'.title()",
    "'abc'.startswith('ab')", "'abc'.endswith(('x', 'c'))", "'abc'.upper()", "'a-b'.replace('-', '+')", "'abc'.find('c')",
    "'a\\nb'.splitlines()", "'-'.join(['a', 'b'])", "{'a': 1}.items() | list", "{'a': 1}.get('b', 2)", "{'a': 1}.keys() | list",
    "'{} and {}'.format('a', 1)", "'{x}'.format(x=3)", "'abc'[::-1]", "'abc'[-2:]", "[1, 2, 3][1:]", "'abc' in 'xabcx'", "'abc'.count('b')",
    "'abc'.isdigit()", "'12'.isdigit()", "'Abc'.lower().capitalize()", "'a b'.lstrip('a ')", "'abc'.rstrip('c')", "'%d' | format(3)",
]
FILTERS = [
    "[3, 1, 2] | sort", "['a', 'b'] | join('-')", "[1, 2] | map('string') | join", "messages | map(attribute='role') | list",
    "messages | selectattr('role', 'equalto', 'user') | list | length", "messages | rejectattr('role', '==', 'user') | list",
    "{'b': 1, 'a': 2} | dictsort", "{'a': 1} | items | list", "'abc' | first", "[1, 2] | last", "'a' | default('b')", "nothing | default('b')",
    "'  a ' | trim", "'a' | upper", "[1, 1, 2] | unique | list", "'1' | int + 1", "'x' | int(7)", "2.5 | round", "'a b' | title", "[[1, 2], [3]] | sum(start=[])",
    "'a\\nb' | indent(2)", "'a\\nb' | indent(2, true)", "'<a>' | escape", "'a' | replace('a', 'b')", "[1, 2, 3] | batch(2) | list", "'abc' | length", "['a'] | first ~ 'x'",
    "messages[0] is mapping", "messages is sequence", "messages is iterable", "'a' is string", "1 is number", "none is none", "x is defined", "true is boolean", "1.0 is float",
]
FORMATTED = [
    "'%s' % 'a'", "'%s and %d' % ('a', 3)", "'%5.2f|' % 3.14159", "'%%%s' % 1", "'%s' % none", "'%s' % true", "'%s' % [1]", "'a' ~ '%s' % 'b' ~ 'c'",
    "'%s' % messages[0].role", "'%s' % messages[0]['content'].upper()", "('%s' % 'a') | upper", "7 % 4", "'%03d' % 7", "'%x' % 255",
]
BLOCKS = [
    "a {% generation %} b {% endgeneration %} c", "a {%- generation -%} b {%- endgeneration -%} c", "a\n{% generation %}\nb\n{% endgeneration %}\nc",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{{ loop.index }}{{ loop.first }}{% endfor %}",
    "{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, b=3) }}", "{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% else %}none{% endfor %}",
    "  {% if true %}\n  a\n  {% endif %}\nb", "{# note #}\na", "{{ raise_exception('no') }}", "{% if x %}a{% elif nothing is defined %}b{% else %}c{% endif %}",
    "{{ (1 if true else 2) ~ ('a' if false) }}", "{% for m in messages[::-1] %}{{ m.role }}{% endfor %}", "{{ messages[-1].content }}{{ messages[-1]['role'] }}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{{ loop.last }}{% endfor %}", "{% filter upper %}abc{% endfilter %}", "{% set a %}x{{ 1 }}{% endset %}{{ a }}",
    "{{ messages[0].nothing }}|{{ messages[0].nothing is defined }}", "{{ tools is none }}{{ documents is none }}", "{{ bos_token + eos_token }}", "{% raw %}{{ a }}{% endraw %}",
    "{{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ -7 // 2 }} {{ -7 % 3 }}", "{{ not true and false or true }}", "{{ 1 < 2 }}{{ 'a' < 'b' }}{{ 1 == 1.0 }}", "{% set x, y = 1, 2 %}{{ x }}{{ y }}",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{{ loop is defined }}", "{{ dict(a=1) }}", "{{ [1] + [2] }}", "{{ 'a' * 3 }}",
]


def variations():
    for name, value in VALUES.items():
        for shown in SHOWN:
            yield f"{{% set v = {value} %}}{shown}"
    for value in ["list", "dict", "accent"]:
        for options in DUMPED:
            arguments = ", ".join(f"{name}={text}" for name, text in options.items() if text)
            yield f"{{{{ {VALUES[value]} | tojson({arguments}) }}}}"
    for expression in METHODS + FILTERS + FORMATTED:
        yield f"{{{{ {expression} }}}}"
    yield from BLOCKS


def main(files: list[str]):
    templates = [(Path(file).stem, Path(file).read_text(), CONVERSATIONS) for file in files]
    if not files:
        templates = [(template, template, {"turns": CONVERSATIONS["turns"]}) for template in variations()]
    cases = [
        {"name": name, "template": template, "conversation": label, **rendered(template, conversation)}
        for name, template, conversations in templates
        for label, conversation in conversations.items()
    ]
    json.dump({"conversations": CONVERSATIONS, "cases": cases}, sys.stdout, ensure_ascii=False, indent=1)


main(sys.argv[1:])
