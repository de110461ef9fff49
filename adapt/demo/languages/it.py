"""Italian."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="it",
    markers=(("Domanda:", "Risposta:"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "Come si scrive {item} in lettere?",
                "Scrivi il numero {item} in lettere.",
                "Come si legge il numero {item}?",
                "Che cos'è {item} in lettere?",
            ),
            statements=(
                "Il numero {item} si scrive in lettere {answer}.",
                "In lettere {item} è {answer}.",
            ),
        ),
        "ordinals": Phrases(
            questions=(
                "Qual è l'ordinale di {item}?",
                "Forma l'ordinale di {item}.",
            ),
            statements=("L'ordinale di {item} è {answer}.",),
        ),
        "dates": Phrases(
            questions=(
                "Come si scrive la data {item} in lettere?",
                "Che giorno è {item}?",
                "Scrivi la data {item} con il nome del mese.",
                "Come si legge la data {item}?",
            ),
            statements=(
                "La data {item} è questa: {answer}.",
                "Con il nome del mese {item} si scrive {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Come si scrive {item} per esteso?",
                "Che cosa significa {item}?",
                "Scrivi {item} senza abbreviazioni.",
            ),
            statements=(
                "{item} significa {answer}.",
                "Per esteso {item} si scrive {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Quale paese ha il codice {item}?",
                "Nomina il paese con il codice {item}.",
                "A quale paese corrisponde il codice {item}?",
            ),
            statements=("Il codice {item} indica questo paese: {answer}.",),
        ),
    },
)
