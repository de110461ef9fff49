"""German."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="de",
    markers=(("Frage:", "Antwort:"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "Wie schreibt man {item} in Worten?",
                "Schreibe die Zahl {item} in Worten.",
                "Wie liest man die Zahl {item}?",
                "Was ist {item} in Worten?",
            ),
            statements=(
                "Die Zahl {item} schreibt man in Worten {answer}.",
                "In Worten ist {item} gleich {answer}.",
            ),
        ),
        "ordinals": Phrases(
            questions=(
                "Wie lautet die Ordnungszahl zu {item}?",
                "Bilde die Ordnungszahl zu {item}.",
            ),
            statements=("Die Ordnungszahl zu {item} lautet {answer}.",),
        ),
        "dates": Phrases(
            questions=(
                "Wie schreibt man das Datum {item} aus?",
                "Welcher Tag ist mit {item} gemeint?",
                "Schreibe das Datum {item} mit dem Monatsnamen.",
                "Wie liest man das Datum {item}?",
            ),
            statements=(
                "Das Datum {item} ist der {answer}.",
                "Ausgeschrieben lautet {item} so: {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Wie schreibt man {item} aus?",
                "Was bedeutet {item}?",
                "Schreibe {item} ohne Abkürzung.",
            ),
            statements=(
                "{item} bedeutet {answer}.",
                "Ohne Abkürzung schreibt man {item} so: {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Welches Land hat den Code {item}?",
                "Nenne das Land mit dem Code {item}.",
                "Für welches Land steht der Code {item}?",
            ),
            statements=("Der Code {item} steht für {answer}.",),
        ),
    },
)
