"""Generates conversations that ask for facts stated earlier in the context.

All words and templates come from models/demo/tasks.json; the README in this
folder documents its schema. Every sample draws fresh keys and values, so there
is nothing to memorize.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

TASKS_PATH = Path(__file__).resolve().parents[2] / "models" / "demo" / "tasks.json"

# Loss weights of the three kinds of tokens.
CONTEXT, ANSWER, VALUE = 0.1, 1.0, 2.0


@dataclass
class Question:
    """A question, its exact answer, where the values stand in it, and the value alone (or None)."""

    text: str
    answer: str
    value_spans: list
    value: str | None = None


@dataclass
class Round:
    """One context (sentences in order) and the questions about it."""

    task: str
    separator: str
    facts: list
    questions: list
    sentences: list = field(default_factory=list)


def render(template, slots, marked=()):
    """Fills `{name}` slots; returns the text and the spans of the marked slots."""
    text, spans = "", []
    for index, part in enumerate(template.replace("{", "}").split("}")):
        if index % 2 == 0:
            text += part
        else:
            if part in marked:
                spans.append((len(text), len(text) + len(slots[part])))
            text += slots[part]
    return text, spans


class Generator:
    """Draws rounds, conversations and single-question samples."""

    def __init__(self, tokenizer: Tokenizer, seed=None, tasks_path=TASKS_PATH):
        self.spec = json.loads(Path(tasks_path).read_text())
        self.tokenizer = tokenizer
        self.random = random.Random(seed)
        self.token_ids = {role: tokenizer.token_to_id(f"<|{role}|>")
                          for role in ("bos", "end", "system", "user", "assistant")}
        self.filler_lengths = [self.count(" " + text) for text in self.spec["filler"]]

    def count(self, text):
        """Number of tokens of a text."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def draw(self, kind):
        """Draws one word, phrase or number as a slot alternative describes it."""
        if "digits" in kind:
            first = self.random.choice("123456789")
            return first + "".join(self.random.choices("0123456789", k=kind["digits"] - 1))
        words = [self.random.choice(self.spec["lists"][name]) for name in kind["words"]]
        return kind.get("join", " ").join(words)

    def draw_unique(self, kind, used):
        """Draws until the result is not in `used`, then adds it; None after many failures."""
        for _ in range(50):
            text = self.draw(kind)
            if text not in used:
                used.add(text)
                return text
        return None

    def pick_task(self, names=None):
        """A task, by weight."""
        tasks = [t for t in self.spec["tasks"] if names is None or t["name"] in names]
        return self.random.choices(tasks, [t["weight"] for t in tasks])[0]

    def make_round(self, task, fact_count, used_keys, mixed=False):
        """Facts and questions of one task; with one template, or with one for each fact if `mixed`."""
        template = self.random.choice(task["templates"])
        kinds = {name: self.random.choice(kinds) for name, kinds in task["slots"].items()}
        if task["kind"] == "chain":
            facts, questions = self.chain_facts(template, kinds, fact_count, used_keys)
        elif task["kind"] == "copy":
            facts, questions = self.copy_facts(template, kinds, fact_count)
        else:
            templates = [template]
            if mixed:
                templates = [t for t in task["templates"] if t["separator"] == template["separator"]]
            facts, questions = self.plain_facts(templates, kinds, fact_count, used_keys)
        self.random.shuffle(questions)
        return Round(task["name"], template["separator"], facts, questions)

    def ask(self, template, answer, slots, marked):
        """A question, with one of the template's wordings, and its answer."""
        question, _ = render(self.random.choice(template["questions"]), slots)
        text, spans = render(answer, slots, marked)
        value = slots.get("value") if "{value}" in answer else None
        return Question(question, text, spans, value)

    def plain_facts(self, templates, kinds, fact_count, used_keys):
        """Independent facts, each with its own key."""
        facts, questions = [], []
        for _ in range(fact_count):
            key = self.draw_unique(kinds["key"], used_keys)
            if key is None:
                break
            template = self.random.choice(templates)
            slots = {name: self.draw(kind) for name, kind in kinds.items() if name != "key"}
            slots["key"] = key
            facts.append(render(template["fact"], slots)[0])
            questions.append(self.ask(template, template["answer"], slots, set(slots) - {"key"}))
        return facts, questions

    def chain_facts(self, template, kinds, fact_count, used_keys):
        """Variables, about half of them defined by another variable."""
        facts, questions, roots = [], [], []
        for _ in range(fact_count):
            key = self.draw_unique(kinds["key"], used_keys)
            if key is None:
                break
            if roots and self.random.random() < 0.5:
                slots = dict(self.random.choice(roots))
                slots["other"], slots["key"] = slots["key"], key
                fact, answer = template["link"], template["link_answer"]
            else:
                slots = {"key": key, "value": self.draw(kinds["value"])}
                roots.append(slots)
                fact, answer = template["fact"], template["answer"]
            facts.append(render(fact, slots)[0])
            questions.append(self.ask(template, answer, slots, {"other", "value"}))
        return facts, questions

    def copy_facts(self, template, kinds, fact_count):
        """One list of items, to be repeated."""
        used = set()
        items = [item for item in (self.draw_unique(kinds["item"], used) for _ in range(fact_count)) if item]
        slots = {"items": template["item_separator"].join(items)}
        return [render(template["fact"], slots)[0]], [self.ask(template, template["answer"], slots, {"items"})]

    def add_filler(self, round_, token_target):
        """Shuffles the facts among filler sentences, up to a number of tokens."""
        tokens = sum(self.count(round_.separator + fact) for fact in round_.facts)
        filler = []
        while True:
            index = self.random.randrange(len(self.filler_lengths))
            tokens += self.filler_lengths[index]
            if tokens > token_target:
                break
            filler.append(self.spec["filler"][index])
        round_.sentences = round_.facts + filler
        self.random.shuffle(round_.sentences)

    def context(self, round_):
        """The text of a round: an introduction, then the sentences."""
        intro = self.random.choice(self.spec["intros"])
        text = round_.separator.join(round_.sentences)
        return intro + round_.separator + text if intro else text

    def sample(self, fact_count, token_target, names=None):
        """A user message of about `token_target` tokens that ends in one question, and the question."""
        round_ = self.make_round(self.pick_task(names), fact_count, set())
        question = round_.questions[0]
        self.add_filler(round_, token_target - self.count("\n" + question.text) - 24)
        return round_.task, self.context(round_) + "\n" + question.text, question

    def message(self, role, text, spans=None):
        """Token ids and loss weights of one chat message; only assistant messages have spans."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        weight = CONTEXT if spans is None else ANSWER
        weights = [VALUE if any(a < end and start < b for a, b in spans or ()) else weight
                   for start, end in encoding.offsets]
        ids = [self.token_ids[role], *encoding.ids, self.token_ids["end"]]
        return ids, [CONTEXT, *weights, weight]

    def conversation(self, length):
        """Exactly `length` tokens of conversation, and their loss weights."""
        rng = self.random
        ids, weights, used_keys = [self.token_ids["bos"]], [0.0], set()

        def say(role, text, spans=None):
            more_ids, more_weights = self.message(role, text, spans)
            ids.extend(more_ids)
            weights.extend(more_weights)

        if rng.random() < 0.15:
            say("system", rng.choice(self.spec["systems"]))
        if rng.random() < 0.15:
            self.small_talk(say)
        while len(ids) < length:
            target = int((length - len(ids)) * rng.uniform(0.15, 0.5))
            task = self.pick_task()
            fact_count = min(60, max(1, int(target * rng.uniform(0.25, 1.0) / 12)))
            round_ = self.make_round(task, fact_count, used_keys, mixed=rng.random() < 0.3)
            message = self.introduce(round_, target, say)
            for question in round_.questions:
                if len(ids) >= length:
                    break
                if (question.value or "").isdigit() and rng.random() < 0.2:
                    say("user", f"{message}{self.spec['brief_instruction']} {question.text}")
                    say("assistant", question.value, [(0, len(question.value))])
                else:
                    say("user", message + question.text)
                    say("assistant", question.answer, question.value_spans)
                message = ""
            if rng.random() < 0.05:
                self.small_talk(say)
        return ids[:length], weights[:length]

    def introduce(self, round_, token_target, say):
        """States the facts; returns what is still to be said before the first question."""
        style = self.random.random()
        if style < 0.1:
            for fact in round_.facts:
                say("user", fact)
                say("assistant", self.random.choice(self.spec["acknowledgements"]), [])
            return ""
        self.add_filler(round_, token_target)
        if style < 0.25:
            say("user", self.context(round_))
            say("assistant", self.random.choice(self.spec["acknowledgements"]), [])
            return ""
        return self.context(round_) + self.random.choice(["\n", "\n", " "])

    def small_talk(self, say):
        """One canned exchange."""
        turn = self.random.choice(self.spec["small_talk"])
        say("user", turn["user"])
        say("assistant", turn["assistant"], [])

    def batch(self, rows, length):
        """Arrays of inputs, targets and target weights."""
        pairs = [self.conversation(length + 1) for _ in range(rows)]
        ids = np.array([p[0] for p in pairs], dtype=np.int64)
        weights = np.array([p[1] for p in pairs], dtype=np.float32)
        return ids[:, :-1], ids[:, 1:], weights[:, 1:]
