"""Romanian."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="ro",
    markers=(("Întrebare:", "Răspuns:"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "Cum se scrie {item} în litere?",
                "Scrie numărul {item} în litere.",
                "Cum se citește numărul {item}?",
                "Ce este {item} în litere?",
            ),
            statements=(
                "Numărul {item} se scrie în litere {answer}.",
                "În litere, {item} este {answer}.",
            ),
        ),
        "dates": Phrases(
            questions=(
                "Cum se scrie data {item} în litere?",
                "Ce zi este {item}?",
                "Scrie data {item} cu numele lunii.",
                "Cum se citește data {item}?",
            ),
            statements=(
                "Data {item} este {answer}.",
                "Cu numele lunii, {item} se scrie {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Cum se scrie {item} fără prescurtări?",
                "Ce înseamnă {item}?",
                "Scrie {item} fără prescurtări.",
            ),
            statements=(
                "{item} înseamnă {answer}.",
                "Fără prescurtări, {item} se scrie {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Ce țară are codul {item}?",
                "Numește țara cu codul {item}.",
                "Cărei țări îi aparține codul {item}?",
            ),
            statements=("Codul {item} aparține acestei țări: {answer}.",),
        ),
    },
)
