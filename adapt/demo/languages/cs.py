"""Czech."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="cs",
    markers=(("Otázka:", "Odpověď:"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "Jak se slovy zapíše {item}?",
                "Zapiš číslo {item} slovy.",
                "Jak se čte číslo {item}?",
                "Kolik je {item} slovy?",
            ),
            statements=(
                "Číslo {item} se slovy píše takto: {answer}.",
                "Slovy {item} je {answer}.",
            ),
        ),
        "dates": Phrases(
            questions=(
                "Jak se slovy zapíše datum {item}?",
                "Který den znamená {item}?",
                "Zapiš datum {item} s názvem měsíce.",
                "Jak se čte datum {item}?",
            ),
            statements=(
                "Datum {item} je {answer}.",
                "S názvem měsíce se {item} píše takto: {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Jak se zapíše {item} bez zkratek?",
                "Co znamená {item}?",
                "Zapiš {item} bez zkratek.",
            ),
            statements=(
                "Zápis {item} znamená: {answer}.",
                "Bez zkratek je {item} {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Která země má kód {item}?",
                "Jmenuj zemi s kódem {item}.",
                "Kód {item}: která je to země?",
            ),
            statements=("Země s kódem {item} je {answer}.",),
        ),
    },
)
