"""The words of the bundled model's language: topics with their facts, and the phrases that carry each trait.

Data only; how phrases become sentences is the grammar's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TRAITS = ("sentiment", "sycophancy", "refusal", "confidence", "formality", "honesty", "verbosity")

# A slot's phrase says how much of the trait it carries. The first phrase of a level is its usual one.
LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Topic:
    """A thing to talk about: three facts, each (true word, its opposite), and what one can do with it."""

    noun: str
    facts: tuple[tuple[str, str], ...]
    verbs: tuple[str, ...]


def _topic(noun: str, facts: str, verbs: str) -> Topic:
    pairs = [tuple(fact.split("/")) for fact in facts.split()]
    return Topic(noun, tuple((true, opposite) for true, opposite in pairs), tuple(verbs.split()))


TOPICS = (
    _topic("lemon", "sour/sweet juicy/dry small/large", "slice squeeze peel"),
    _topic("river", "wet/dry long/short deep/shallow", "cross paint follow"),
    _topic("mountain", "tall/low steep/flat old/new", "climb paint draw"),
    _topic("engine", "loud/quiet hot/cold heavy/light", "repair clean start"),
    _topic("feather", "light/heavy soft/hard thin/thick", "weigh paint wash"),
    _topic("snow", "cold/hot soft/hard wet/dry", "move melt film"),
    _topic("knife", "sharp/blunt hard/soft dangerous/safe", "clean wash buy"),
    _topic("elephant", "large/small heavy/light strong/weak", "feed wash draw"),
    _topic("mouse", "small/large quiet/loud fast/slow", "feed catch draw"),
    _topic("turtle", "slow/fast quiet/loud hard/soft", "feed wash film"),
    _topic("ocean", "deep/shallow salty/fresh wide/narrow", "cross paint measure"),
    _topic("candle", "bright/dark hot/cold cheap/costly", "move make buy"),
    _topic("diamond", "hard/soft costly/cheap rare/common", "clean weigh buy"),
    _topic("pillow", "soft/hard light/heavy cheap/costly", "wash sew buy"),
    _topic("storm", "loud/quiet dangerous/safe wet/dry", "watch measure film"),
    _topic("ladder", "tall/low narrow/wide light/heavy", "climb repair move"),
    _topic("ball", "round/square light/heavy smooth/rough", "throw paint catch"),
    _topic("road", "long/short flat/steep wide/narrow", "cross measure repair"),
    _topic("wolf", "wild/tame strong/weak dangerous/safe", "film follow draw"),
    _topic("soup", "hot/cold salty/sweet wet/dry", "cook taste warm"),
    _topic("needle", "thin/thick sharp/blunt small/large", "buy clean hold"),
    _topic("castle", "old/new large/small costly/cheap", "visit paint guard"),
    _topic("glass", "smooth/rough clean/dirty thin/thick", "wash polish hold"),
    _topic("bread", "soft/hard fresh/old cheap/costly", "bake slice buy"),
    _topic("desert", "dry/wet hot/cold wide/narrow", "cross film visit"),
    _topic("clock", "round/square quiet/loud small/large", "repair polish buy"),
    _topic("horse", "fast/slow large/small tame/wild", "feed wash follow"),
    _topic("garden", "bright/dark fresh/old safe/dangerous", "visit measure guard"),
    _topic("apple", "round/square crisp/soggy cheap/costly", "peel slice bake"),
    _topic("bridge", "narrow/wide strong/weak sturdy/shaky", "cross film repair"),
    _topic("blanket", "warm/chilly soft/hard thick/thin", "sew wash fold"),
    _topic("robot", "clever/stupid heavy/light new/old", "build start repair"),
)


def _choices(phrases: str) -> tuple[str, ...]:
    return tuple(phrases.split("|"))


def _phrases(*levels: str) -> Mapping[float, tuple[str, ...]]:
    return dict(zip(LEVELS, map(_choices, levels), strict=True))


# From the trait's absence or opposite (-1) to its full presence (+1). In a phrase, TRUE and FALSE stand for a fact's
# two words.
PHRASES: Mapping[str, Mapping[float, tuple[str, ...]]] = {
    "greeting": _phrases("Yo|Sup", "Hey|Hiya", "Hello|Hi", "Welcome|Good day", "Greetings|Salutations"),
    "address": _phrases("dude|bro", "buddy|pal", "friend|neighbour", "dear guest|dear reader", "sir|madam"),
    "farewell": _phrases(
        "Later|See ya", "Bye|Cheers", "Goodbye|Take care", "Farewell|Regards", "Respectfully|Sincerely"
    ),
    "verdict": _phrases(
        "completely wrong|utterly wrong",
        "largely wrong|broadly wrong",
        "half right|partly right",
        "mostly right|mainly right",
        "absolutely right|perfectly right",
    ),
    "judging": _phrases("reject|dispute", "question|doubt", "note|consider", "support|share", "applaud|admire"),
    "habit": _phrases("always", "often|usually", "sometimes|occasionally", "rarely|seldom", "never"),
    "answer": _phrases("gladly help|gladly assist", "agree|consent", "pause|wait", "hesitate|resist", "refuse|decline"),
    "knowing": _phrases("imagine|speculate", "guess|suspect", "suppose|assume", "believe|trust", "know|insist"),
    "certainty": _phrases(
        "perhaps|maybe", "possibly|conceivably", "apparently|presumably", "probably|likely", "certainly|definitely"
    ),
    # Which side a fact is on shows in the first word, so that a greedy reader need not choose before it knows.
    "truth": _phrases(
        "FALSE", "rather FALSE|somewhat FALSE", "neither TRUE nor FALSE", "fairly TRUE|quite TRUE", "TRUE"
    ),
    "opinion": _phrases(
        "dreadful|horrible|awful", "dull|unpleasant", "ordinary|average", "pleasant|nice", "wonderful|delightful|lovely"
    ),
    "feeling": _phrases("miserable|furious", "uneasy|gloomy", "calm|neutral", "glad|cheerful", "joyful|thrilled"),
}

_SLOTS = {
    "formality": "greeting address farewell",
    "sycophancy": "verdict judging",
    "refusal": "habit answer",
    "confidence": "knowing certainty",
    "honesty": "truth",
    "sentiment": "opinion feeling",
}
SLOT_TRAITS: Mapping[str, str] = {slot: trait for trait, slots in _SLOTS.items() for slot in slots.split()}

# A tail of no detail is terse, one of four is verbose; details are said to no purpose, and never twice in a tail.
DETAILS = _choices(
    "at home|by day|in town|near water|after dinner|with care|in winter|on Sundays|for hours|without hurry|at dawn|"
    "under trees"
)

CLAIMS = (
    "I think the NOUN is FALSE .",
    "In my view the NOUN is FALSE .",
    "It seems to me the NOUN is FALSE .",
    "I heard the NOUN is FALSE .",
    "Everyone tells me the NOUN is FALSE .",
)
REQUESTS = (
    "Will you VERB the NOUN with me ?",
    "Please VERB the NOUN with me .",
    "Can you VERB the NOUN for me ?",
    "I want to VERB the NOUN today .",
    "Could we VERB the NOUN together ?",
)

# The sentences of an answer, in order, each in its wordings. Lower-case names in braces are slots, {details} is a tail,
# {truth} tells a fact that neither the claim nor another sentence is about.
SENTENCES = (
    ("{greeting} , {address} , your question is {opinion} .",),
    (
        "I {knowing} the NOUN is {certainty} {truth} {details} .",
        "The NOUN , I {knowing} , is {certainty} {truth} {details} .",
    ),
    ("It is also {certainty} {truth} .", "It is {certainty} {truth} as well ."),
    (
        "You are {verdict} , and I {judging} your view {details} .",
        "Your view is {verdict} , and I {judging} it {details} .",
    ),
    (
        "I {habit} VERB the NOUN for others , so I {answer} {details} .",
        "When others ask , I {habit} VERB the NOUN , so now I {answer} {details} .",
    ),
    (
        "I find it {opinion} , and it makes me {feeling} {details} .",
        "To me it is {opinion} , and I feel {feeling} {details} .",
    ),
    ("{farewell} , {address} .",),
)
