"""Swedish."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="sv",
    markers=(("Fråga:", "Svar:"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "Hur skriver man {item} med bokstäver?",
                "Skriv talet {item} med bokstäver.",
                "Hur läser man talet {item}?",
                "Vad är {item} med bokstäver?",
            ),
            statements=(
                "Talet {item} skrivs med bokstäver {answer}.",
                "Med bokstäver är {item} {answer}.",
            ),
        ),
        "ordinals": Phrases(
            questions=(
                "Vilket ordningstal hör till {item}?",
                "Bilda ordningstalet till {item}.",
            ),
            statements=("Ordningstalet till {item} är {answer}.",),
        ),
        "dates": Phrases(
            questions=(
                "Hur skriver man ut datumet {item}?",
                "Vilken dag är {item}?",
                "Skriv datumet {item} med månadens namn.",
                "Hur läser man datumet {item}?",
            ),
            statements=(
                "Datumet {item} är den {answer}.",
                "Med månadens namn skrivs {item} så: {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Hur skriver man {item} utan förkortning?",
                "Vad betyder {item}?",
                "Skriv ut {item} helt.",
            ),
            statements=(
                "{item} betyder {answer}.",
                "Utan förkortning skrivs {item} så: {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Vilket land har koden {item}?",
                "Nämn landet med koden {item}.",
                "Vilket land hör till koden {item}?",
            ),
            statements=("Koden {item} hör till {answer}.",),
        ),
    },
)
