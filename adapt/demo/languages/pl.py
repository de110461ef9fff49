"""Polish."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="pl",
    markers=(("Pytanie:", "Odpowiedź:"),),
    date_pattern="d MMMM y 'roku'",
    phrases={
        "numbers": Phrases(
            questions=(
                "Jak zapisać {item} słownie?",
                "Zapisz liczbę {item} słownie.",
                "Jak czyta się liczbę {item}?",
                "Ile to {item} słownie?",
            ),
            statements=(
                "Liczbę {item} zapisuje się słownie tak: {answer}.",
                "Słownie {item} to {answer}.",
            ),
        ),
        "ordinals": Phrases(
            questions=(
                "Jaki liczebnik porządkowy odpowiada liczbie {item}?",
                "Utwórz liczebnik porządkowy od {item}.",
            ),
            statements=("Liczebnik porządkowy od {item} to {answer}.",),
        ),
        "dates": Phrases(
            questions=(
                "Jak zapisać datę {item} słownie?",
                "Jaki dzień oznacza {item}?",
                "Zapisz datę {item} z nazwą miesiąca.",
                "Jak czyta się datę {item}?",
            ),
            statements=(
                "Data {item} to {answer}.",
                "Z nazwą miesiąca {item} zapisuje się tak: {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Jak zapisać {item} bez skrótów?",
                "Co oznacza {item}?",
                "Zapisz {item} w całości.",
            ),
            statements=(
                "Zapis {item} oznacza: {answer}.",
                "Bez skrótów {item} to {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Jaki kraj ma kod {item}?",
                "Podaj nazwę kraju o kodzie {item}.",
                "Kod {item}: jaki to kraj?",
            ),
            statements=("Kraj o kodzie {item} to {answer}.",),
        ),
    },
)
