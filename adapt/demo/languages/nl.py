"""Dutch."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="nl",
    markers=(("Vraag:", "Antwoord:"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "Hoe schrijf je {item} in woorden?",
                "Schrijf het getal {item} in woorden.",
                "Hoe lees je het getal {item}?",
                "Wat is {item} in woorden?",
            ),
            statements=(
                "Het getal {item} schrijf je in woorden als {answer}.",
                "In woorden is {item} {answer}.",
            ),
        ),
        "ordinals": Phrases(
            questions=(
                "Wat is het rangtelwoord bij {item}?",
                "Vorm het rangtelwoord van {item}.",
            ),
            statements=("Het rangtelwoord bij {item} is {answer}.",),
        ),
        "dates": Phrases(
            questions=(
                "Hoe schrijf je de datum {item} voluit?",
                "Welke dag is {item}?",
                "Schrijf de datum {item} met de naam van de maand.",
                "Hoe lees je de datum {item}?",
            ),
            statements=(
                "De datum {item} is {answer}.",
                "Voluit schrijf je {item} als {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Hoe schrijf je {item} zonder afkorting?",
                "Wat betekent {item}?",
                "Schrijf {item} voluit.",
            ),
            statements=(
                "{item} betekent {answer}.",
                "Zonder afkorting schrijf je {item} als {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Welk land heeft de code {item}?",
                "Noem het land met de code {item}.",
                "Bij welk land hoort de code {item}?",
            ),
            statements=("De code {item} hoort bij {answer}.",),
        ),
    },
)
