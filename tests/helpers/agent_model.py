"""A model that does what agents want of one: it calls a tool, and says something when it is told what came of it."""

import json

from scripted import write_scripted

ANSWER = "The file says hello."
TEMPLATE = """\
{%- for t in tools or [] %}{{ t | tojson }}
{% endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|told|>' if loop.previtem.role == 'tool' else '<|ask|>' }}{{ m.content or '' }}
{%- for c in m.tool_calls or [] %}<tool_call>{"name": "{{ c.function.name }}", "arguments": \
{{ c.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>
{%- else %}{{ m.role }}: {{ m.content }}
{% endif %}
{%- endfor %}{{- '<|told|>' if messages[-1].role == 'tool' else '<|ask|>' }}"""


def write_agent_model(folder, tool, arguments, context):
    """A folder of one that calls this tool, and then says ANSWER. Most of its tokens are letters."""
    call = json.dumps({"name": tool, "arguments": arguments})
    words = ["<tool_call>", call, "</tool_call>", ANSWER]
    asked, told = ["<|ask|>", *words[:3], "<|im_end|>"], ["<|told|>", ANSWER, "<|im_end|>"]
    marks = {"special": ["<|ask|>", "<|told|>"], "added": words, "eos": "<|im_end|>"}
    return write_scripted(folder, asked, told, template=TEMPLATE, context=context, **marks)
