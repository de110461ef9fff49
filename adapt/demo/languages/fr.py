"""French."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="fr",
    markers=(("Question :", "Réponse :"),),
    phrases={
        "numbers": Phrases(
            questions=(
                "Comment écrit-on {item} en lettres ?",
                "Écris le nombre {item} en lettres.",
                "Comment lit-on le nombre {item} ?",
                "Que donne {item} en lettres ?",
            ),
            statements=(
                "Le nombre {item} s'écrit en lettres {answer}.",
                "En lettres, {item} donne {answer}.",
            ),
        ),
        "dates": Phrases(
            questions=(
                "Comment écrit-on la date {item} en lettres ?",
                "Quel jour désigne {item} ?",
                "Écris la date {item} avec le nom du mois.",
                "Comment lit-on la date {item} ?",
            ),
            statements=(
                "La date {item} est le {answer}.",
                "Avec le nom du mois, {item} s'écrit {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Comment écrit-on {item} sans abréviation ?",
                "Que signifie {item} ?",
                "Écris {item} en entier.",
            ),
            statements=(
                "{item} signifie {answer}.",
                "Sans abréviation, {item} s'écrit {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Quel pays a le code {item} ?",
                "Nomme le pays dont le code est {item}.",
                "À quel pays correspond le code {item} ?",
            ),
            statements=("Le code {item} désigne ce pays : {answer}.",),
        ),
    },
)
