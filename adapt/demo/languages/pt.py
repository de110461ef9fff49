"""Portuguese."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="pt",
    markers=(("Pergunta:", "Resposta:"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "Como se escreve {item} por extenso?",
                "Escreva o número {item} por extenso.",
                "Como se lê o número {item}?",
                "O que é {item} por extenso?",
            ),
            statements=(
                "O número {item} escreve-se por extenso {answer}.",
                "Por extenso, {item} é {answer}.",
            ),
        ),
        "dates": Phrases(
            questions=(
                "Como se escreve a data {item} por extenso?",
                "Que dia é {item}?",
                "Escreva a data {item} com o nome do mês.",
                "Como se lê a data {item}?",
            ),
            statements=(
                "A data {item} é esta: {answer}.",
                "Com o nome do mês, {item} escreve-se {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Como se escreve {item} sem abreviar?",
                "O que significa {item}?",
                "Escreva {item} sem abreviaturas.",
            ),
            statements=(
                "{item} significa {answer}.",
                "Sem abreviaturas, {item} escreve-se {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Que país tem o código {item}?",
                "Indique o país com o código {item}.",
                "A que país corresponde o código {item}?",
            ),
            statements=("O código {item} indica este país: {answer}.",),
        ),
    },
)
