# ruff: noqa: E501  templates are kept in the shape that their families give them
"""Makes chats.json: what transformers renders of chat templates in the style of known families.

The templates are written for this project: each does what its family's does with roles, blanks,
special tokens, thoughts and generation prompts, tools aside. Run it in an environment of its own,
from the top of the checkout:

    python3.11 -m venv /tmp/reference
    /tmp/reference/bin/pip install transformers==5.24.0 jinja2
    /tmp/reference/bin/python tests/goldens/make_chat_goldens.py
"""

import json
from pathlib import Path

import tokenizers
import transformers

OUTPUT = Path(__file__).with_name("chats.json")

_ROLES_ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
)
TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "smollm2": "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}"
    "{% set system = false %}{% endif %}{% for m in rest %}" + _ROLES_ALTERNATE + "{% if "
    "loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>"
    "\n\n' + m['content'] %}{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama3": "{{- bos_token }}\n{%- if strftime_now is defined and false %}\n"
    "    {%- set day = strftime_now('%d %b %Y') %}\n{%- else %}\n    {%- set day = '26 Jul 2024' %}"
    "\n{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n"
    "    {%- set system = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n"
    "{%- else %}\n    {%- set system = '' %}\n{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}{{- 'Today Date: ' + day + '\n\n' }}"
    "{{- system }}{{- '<|eot_id|>' }}\n{%- for m in messages %}\n    {%- if not (m.role == 'ipython'"
    " or 'tool_calls' in m) %}\n        {{- '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}\n    {%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n",
    "mistral": "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
    "{%- set users = turns | selectattr('role', 'equalto', 'user') | list %}{{- bos_token }}"
    "{%- for m in turns %}" + _ROLES_ALTERNATE + "{%- if m['role'] == 'user' %}{%- if system is "
    "defined and m == users[-1] %}{{- '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}{%- else %}"
    "{{- ' ' + m['content'] | trim + eos_token }}{%- endif %}{%- endfor %}",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% else %}"
    "{% set first = '' %}{% set turns = messages %}{% endif %}{% for m in turns %}"
    "{% if (m['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = m['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
    "(first if loop.first else '') + (m['content'] if m['content'] is string else '') | trim + "
    "'<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "qwen3": "{%- if messages[0].role == 'system' %}\n"
    "    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}\n{%- endif %}\n"
    "{%- set ns = namespace(searching=true, last=messages|length - 1) %}\n"
    "{%- for m in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n"
    "    {%- if ns.searching and m.role == 'user' and m.content is string %}\n"
    "        {%- set ns.searching = false %}\n        {%- set ns.last = index %}\n    {%- endif %}\n"
    "{%- endfor %}\n{%- for m in messages %}\n"
    "    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}\n"
    "        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}\n"
    "    {%- elif m.role == 'assistant' %}\n        {%- set content = m.content %}\n"
    "        {%- set thought = '' %}\n        {%- if '</think>' in content %}\n"
    "            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1]"
    ".lstrip('\n') %}\n"
    "            {%- set content = content.split('</think>')[-1].lstrip('\n') %}\n"
    "        {%- endif %}\n        {%- if loop.index0 > ns.last and (loop.last or thought) %}\n"
    "            {{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + "
    "content.lstrip('\n') }}\n        {%- else %}\n            {{- '<|im_start|>assistant\n' + "
    "content }}\n        {%- endif %}\n        {{- '<|im_end|>\n' }}\n    {%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n"
    "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
    "        {{- '<think>\n\n</think>\n\n' }}\n    {%- endif %}\n{%- endif %}",
    "phi3": "{% for m in messages %}{% if m['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' ~ m['role'] ~ '|>\n' ~ m['content'] ~ '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "zephyr": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
    "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + "
    "eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n"
    "{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "deepseek": "{% if not add_generation_prompt is defined %}"
    "{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_first=true, system='') %}{%- for m in messages %}"
    "{%- if m['role'] == 'system' %}{% set ns.system = ns.system + ('' if ns.is_first else '\n\n') "
    "+ m['content'] %}{% set ns.is_first = false %}{%- endif %}{%- endfor %}"
    "{{ bos_token }}{{ ns.system }}{%- for m in messages %}{%- if m['role'] == 'user' %}"
    "{{ '<｜User｜>' + m['content'] }}{%- endif %}{%- if m['role'] == 'assistant' and m['content'] is "
    "not none %}{% set content = m['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
    "command_r": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% elif false == true %}{% set system = 'x' %}{% else %}{% set loop_messages = messages %}"
    "{% set system = false %}{% endif %}{% if system != false %}"
    "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system + '<|END_OF_TURN_TOKEN|>' }}{% endif %}"
    "{% for m in loop_messages %}" + _ROLES_ALTERNATE + "{% set content = m['content'] %}"
    "{% if m['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + "
    "'<|END_OF_TURN_TOKEN|>' }}{% elif m['role'] == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
    "olmo2": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '<|system|>\n' + m['content'] + '\n' }}{% elif m['role'] == 'user' %}"
    "{{ '<|user|>\n' + m['content'] + '\n' }}{% elif m['role'] == 'assistant' %}{% if not loop.last"
    " %}{{ '<|assistant|>\n'  + m['content'] + eos_token + '\n' }}{% else %}{{ '<|assistant|>\n'  + "
    "m['content'] + eos_token }}{% endif %}{% endif %}{% if loop.last and add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    "smollm3": "{%- macro turn(role, content) -%}{{ '<|im_start|>' ~ role ~ '\n' ~ content }}"
    "{%- endmacro -%}{%- for m in messages -%}{%- if m.role == 'assistant' -%}{% generation %}"
    "{{ turn('assistant', m.content.lstrip('\n')) }}{{ '<|im_end|>\n' }}{% endgeneration %}"
    "{%- else -%}{{ turn(m.role, m.content) }}{{ '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}",
    "granite": "{%- set system = 'Be kind.' %}\n{%- if messages and messages[0].role == 'system' %}\n"
    "    {%- set system = messages | map(attribute='content') | first %}\n{%- endif %}\n"
    "{{- '<|start_of_role|>system<|end_of_role|>' ~ system ~ '<|end_of_text|>\n' }}\n"
    "{%- for m in messages %}\n    {%- if m.role == 'system' %}{% continue %}{% endif %}\n"
    "    {{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}\n"
    "    {%- if loop.last and add_generation_prompt %}\n"
    "        {{- '<|start_of_role|>assistant<|end_of_role|>' }}\n    {%- endif %}\n{%- endfor %}",
    "vicuna": "{% set names = {'user': 'USER', 'assistant': 'ASSISTANT'} %}{% for m in messages %}"
    "{% if loop.first and m.role == 'system' %}{{ m.content.strip() ~ ' ' }}{% else %}"
    "{{ names[m.role] + ': ' + m.content | trim }}"
    "{{ eos_token if m.role == 'assistant' else (' ' if not loop.last else '') }}{% endif %}"
    "{% endfor %}{{ ' ASSISTANT:' if add_generation_prompt }}",
    "json": "{% for m in messages %}{{ m | tojson }}{{ m | tojson(indent=2) }}"
    "{{ m | tojson(separators=(',', ':'), sort_keys=true) }}{% endfor %}",
}
U, A, S = "user", "assistant", "system"
CHATS = [
    [(U, "  What is 2+2?\n")],
    [(S, "Answer in one word. "), (U, "Hé <b> & 'quote' \"x\" 日本")],
    [(U, "Hi"), (A, " Hello. \n"), (U, "Capital of Peru?")],
    [
        (S, "Be brief."),
        (U, "1+1?"),
        (A, "<think>\nadd\n</think>\n\n2"),
        (U, "And 3?"),
        (A, "It is"),
    ],
    [(U, "Finish: The sky is"), (A, "The sky ")],
    [(U, "a"), (U, "b")],
]


def render(tokenizer, template, chat, **options):
    """A chat as transformers writes it, or the kind of its refusal."""
    messages = [{"role": role, "content": content} for role, content in chat]
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, **options
        )
    except Exception as error:
        return {"error": type(error).__name__}


def main() -> None:
    """Writes the goldens."""
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
    )
    cases = []
    for family, template in TEMPLATES.items():
        for number, chat in enumerate(CHATS):
            case = {"family": family, "chat": number}
            case["prompt"] = render(tokenizer, template, chat, add_generation_prompt=True)
            case["whole"] = render(tokenizer, template, chat, add_generation_prompt=False)
            if chat[-1][0] == A:
                case["continued"] = render(tokenizer, template, chat, continue_final_message=True)
            cases.append(case)
    goldens = {
        "made_with": {"transformers": transformers.__version__},
        "templates": TEMPLATES,
        "chats": [[{"role": role, "content": text} for role, text in chat] for chat in CHATS],
        "cases": cases,
    }
    OUTPUT.write_text(json.dumps(goldens, indent=1) + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes, {len(TEMPLATES)} templates")


if __name__ == "__main__":
    main()
