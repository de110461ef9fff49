"""Ukrainian, the target language.

The phrasings keep answers in the nominative, where CLDR's and num2words' forms are right; a date
is genitive by itself ("5 березня 2020 року") and stands well in an adverbial.
"""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="uk",
    markers=(
        ("Питання:", "Відповідь:"),
        ("Запитання:", "Відповідь:"),
        ("Учень питає:", "Учитель відповідає:"),
    ),
    date_pattern="d MMMM y 'року'",
    phrases={
        "numbers": Phrases(
            questions=(
                "Як записати число {item} словами?",
                "Як пишеться число {item} словами?",
                "Запиши число {item} словами.",
                "Напиши словами число {item}.",
                "Як словами написати {item}?",
                "Як прочитати число {item}?",
                "Подай число {item} словами.",
                "Якими словами позначають число {item}?",
            ),
            statements=(
                "Число {item} словами пишеться так: {answer}.",
                "Словами {item} — це {answer}.",
                "{item} читається як {answer}.",
                "Запис {item} означає число {answer}.",
                "Замість {item} можна написати {answer}.",
                "Учень прочитав число {item}: {answer}.",
            ),
        ),
        "ordinals": Phrases(
            questions=(
                "Який порядковий числівник відповідає числу {item}?",
                "Утвори порядковий числівник від {item}.",
                "Назви порядковий числівник від числа {item}.",
                "Який порядковий числівник від {item}?",
                "Запиши порядковий числівник від {item} словами.",
                "Котрий за порядком номер {item}?",
            ),
            statements=(
                "Порядковий числівник від {item} — {answer}.",
                "Номер {item} за порядком — {answer}.",
                "Хто має номер {item}, той {answer} у черзі.",
                "Від числа {item} утворюють порядковий числівник {answer}.",
            ),
        ),
        "dates": Phrases(
            questions=(
                "Як записати дату {item} словами?",
                "Запиши дату {item} повністю.",
                "Який день позначає запис {item}?",
                "Яку дату означає {item}?",
                "Як читається дата {item}?",
                "Подай дату {item} з назвою місяця.",
                "Яка це дата: {item}?",
                "Напиши дату {item} з назвою місяця.",
            ),
            statements=(
                "Дата {item} — це {answer}.",
                "Договір підписали {answer} ({item}).",
                "Запис {item} означає {answer}.",
                "Подія відбулася {answer}, тобто {item}.",
                "У листі вказано дату {item}, тобто {answer}.",
                "Повністю {item} читається так: {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "Як повністю записати {item}?",
                "Що означає запис {item}?",
                "Запиши {item} без скорочень.",
                "Як пишеться {item} без скорочень?",
                "Розшифруй скорочення: {item}.",
                "Напиши повністю: {item}.",
            ),
            statements=(
                "Запис {item} повністю читається так: {answer}.",
                "{item} — це {answer}.",
                "Без скорочень {item} пишеться як {answer}.",
                "На табличці написано {item}, тобто {answer}.",
                "Скорочення {item} означає: {answer}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Яка країна має код {item}?",
                "Назви країну з кодом {item}.",
                "Код {item}: яка це країна?",
                "Яка країна позначена кодом {item}?",
                "Що за країна має код {item}?",
            ),
            statements=(
                "Код країни {answer} — {item}.",
                "Країна з кодом {item} — {answer}.",
                "Кодом {item} позначена країна {answer}.",
            ),
        ),
    },
)
