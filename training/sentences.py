"""Random sentences in seven languages.

Every sentence begins with a subject, and the splits share no subject: so they share no sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "held-out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """The phrases of one language, separated by "|"."""

    train: str
    held_out: str
    verbs: str
    objects: str
    ends: str
    joints: str

    def subjects(self, split: str) -> list[str]:
        return (self.train if split == "train" else self.held_out).split("|")


ENGLISH = Phrases(
    train="the old sailor|my neighbour|a young doctor|the girl with the umbrella|our teacher|every child"
    "|that strange bird|the man on the bridge|your brother|the captain|a friend of mine|the whole village"
    "|nobody here|the weather report|this small machine|the night train|her uncle|the baker|two of us"
    "|the longest river|somebody upstairs|the orange cat|the first speaker",
    held_out="the quiet gardener|his sister|a tall visitor|the boy at the window|their cousin|the violin"
    "|everyone in town|the mayor|an unknown voice|the blue boat|the last passenger",
    verbs="watched|carried|forgot|painted|talked about|would like to see|has never found|is looking for"
    "|always remembers|should open|bought|waited for|will bring|thought of|could hear",
    objects="five yellow apples|the beach house|a letter from home|the big brown dog|music in the garden"
    "|seven paper boats|the moon over the water|a very good idea|the key to the kitchen|warm bread"
    "|an enormous elephant|the answer|some cheese and tea|the shoes in the shop window|my other hat|you"
    "|the phone number|what was left of the soup",
    ends="before breakfast|on a rainy Monday|with great pleasure|at half past nine|again and again"
    "|as far as I know|in the middle of the afternoon|without a word|for no reason at all|near the station"
    "|this evening|from the very beginning|oh my|if we may believe the papers",
    joints=", and then |, but |, because |. Well, |; yes, |? No, ",
)
LANGUAGES: dict[str, Phrases] = {
    **dict.fromkeys(("en-us", "en-gb", "en-gb-scotland"), ENGLISH),
    "de": Phrases(
        train="der alte Mann|meine Nachbarin|das kleine Kind|unser Lehrer|der Zug aus Köln"
        "|eine gute Freundin",
        held_out="die Ärztin|mein Onkel|der müde Bäcker|das ganze Dorf",
        verbs="sucht|findet|malt|vergisst|öffnet|hört|bringt|kauft",
        objects="die blauen Schuhe|einen langen Brief|das schöne Haus|zwei Äpfel|die Musik im Garten"
        "|ein Boot",
        ends="heute Abend|vor dem Frühstück|ohne ein Wort|mit viel Freude|immer wieder|am Bahnhof",
        joints=", und |, aber |. Ja, |; doch ",
    ),
    "fr-fr": Phrases(
        train="le vieux marin|ma voisine|un jeune médecin|notre professeur|la petite fille|tout le village",
        held_out="mon oncle|la boulangère|le dernier voyageur|une voix inconnue",
        verbs="cherche|regarde|oublie|trouve|apporte|dessine|attend",
        objects="les chaussures bleues|une longue lettre|la belle maison|deux pommes|la musique du soir"
        "|la lune",
        ends="ce soir|avant le petit déjeuner|sans un mot|avec plaisir|encore une fois|près de la gare",
        joints=", et |, mais |. Oui, |; puis ",
    ),
    "es": Phrases(
        train="el viejo marinero|mi vecina|un médico joven|nuestra maestra|el perro grande|todo el pueblo",
        held_out="mi hermano|la panadera|el último viajero|una voz extraña",
        verbs="busca|mira|olvida|encuentra|trae|pinta|espera",
        objects="los zapatos azules|una carta muy larga|la casa bonita|dos manzanas|la música del jardín"
        "|la luna",
        ends="esta noche|antes del desayuno|sin decir nada|con mucho gusto|otra vez|cerca de la estación",
        joints=", y |, pero |. Sí, |; luego ",
    ),
    "it": Phrases(
        train="il vecchio marinaio|la mia vicina|un giovane medico|la nostra maestra|il gatto nero",
        held_out="mio fratello|la fornaia|una voce lontana|tutto il paese",
        verbs="cerca|guarda|dimentica|trova|porta|dipinge|aspetta",
        objects="le scarpe azzurre|una lunga lettera|la bella casa|due mele|la musica del giardino|la luna",
        ends="questa sera|prima di colazione|senza una parola|con piacere|ancora una volta"
        "|vicino alla stazione",
        joints=", e |, ma |. Sì, |; poi ",
    ),
    "pt": Phrases(
        train="o velho marinheiro|a minha vizinha|um médico novo|a nossa professora|o gato preto",
        held_out="o meu irmão|a padeira|uma voz estranha|toda a aldeia",
        verbs="procura|olha para|esquece|encontra|traz|pinta|espera",
        objects="os sapatos azuis|uma carta muito longa|a casa bonita|duas maçãs|a música do jardim|a lua",
        ends="esta noite|antes do almoço|sem uma palavra|com muito gosto|outra vez|perto da estação",
        joints=", e |, mas |. Sim, |; depois ",
    ),
    "nl": Phrases(
        train="de oude zeeman|mijn buurvrouw|een jonge dokter|onze leraar|het kleine meisje|iedereen",
        held_out="mijn broer|de bakker|de laatste reiziger|het hele dorp",
        verbs="zoekt|vindt|vergeet|schildert|brengt|opent|hoort",
        objects="de blauwe schoenen|een lange brief|het mooie huis|twee appels|de muziek in de tuin|de maan",
        ends="vanavond|voor het ontbijt|zonder een woord|met veel plezier|steeds weer|bij het station",
        joints=", en |, maar |. Ja, |; toch ",
    ),
}
"""By espeak-ng's names of languages and accents."""


def make_sentence(r: np.random.Generator, language: str, split: str, clauses: int) -> str:
    """Clauses of about 1.5 to 2.5 seconds each."""
    phrases = LANGUAGES[language]
    text = _make_clause(r, phrases, split)
    for _ in range(clauses - 1):
        text += _pick(r, phrases.joints) + _make_clause(r, phrases, split)
    return text[0].upper() + text[1:] + "."


def _make_clause(r: np.random.Generator, phrases: Phrases, split: str) -> str:
    subjects = phrases.subjects(split)
    words = [subjects[r.integers(len(subjects))], _pick(r, phrases.verbs), _pick(r, phrases.objects)]
    if r.random() < 0.5:
        words[-1] += "," if r.random() < 0.4 else ""
        words.append(_pick(r, phrases.ends))
    return " ".join(words)


def _pick(r: np.random.Generator, phrases: str) -> str:
    choices = phrases.split("|")
    return choices[r.integers(len(choices))]
