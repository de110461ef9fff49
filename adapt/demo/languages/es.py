"""Spanish."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="es",
    markers=(("Pregunta:", "Respuesta:"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "¿Cómo se escribe {item} en letras?",
                "Escribe el número {item} en letras.",
                "¿Cómo se lee el número {item}?",
                "¿Qué es {item} en letras?",
            ),
            statements=(
                "El número {item} se escribe en letras {answer}.",
                "En letras, {item} es {answer}.",
            ),
        ),
        "dates": Phrases(
            questions=(
                "¿Cómo se escribe la fecha {item} en letras?",
                "¿Qué día es {item}?",
                "Escribe la fecha {item} con el nombre del mes.",
                "¿Cómo se lee la fecha {item}?",
            ),
            statements=(
                "La fecha {item} es el {answer}.",
                "Con el nombre del mes, {item} se escribe {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "¿Cómo se escribe {item} sin abreviar?",
                "¿Qué significa {item}?",
                "Escribe {item} sin abreviaturas.",
            ),
            statements=(
                "{item} significa {answer}.",
                "Sin abreviaturas, {item} se escribe {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "¿Qué país tiene el código {item}?",
                "Nombra el país con el código {item}.",
                "¿A qué país corresponde el código {item}?",
            ),
            statements=("El código {item} designa este país: {answer}.",),
        ),
    },
)
