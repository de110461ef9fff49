"""English."""

from adapt.demo.phrases import Language, Phrases

LANGUAGE = Language(
    code="en",
    markers=(("Question:", "Answer:"), ("Q:", "A:"), ("A pupil asks:", "The teacher answers:")),
    phrases={
        "numbers": Phrases(
            questions=(
                "How is {item} written in words?",
                "Write the number {item} in words.",
                "How do you spell out {item}?",
                "What is {item} in words?",
                "Spell out the number {item}.",
                "How do you read the number {item}?",
                "Put {item} into words.",
                "Which words stand for the number {item}?",
            ),
            statements=(
                "The number {item} is written in words as {answer}.",
                "In words, {item} is {answer}.",
                "{item} is read as {answer}.",
                "The figure {item} stands for {answer}.",
                "Instead of {item} one may write {answer}.",
                "Spelled out, the number {item} becomes {answer}.",
            ),
        ),
        "ordinals": Phrases(
            questions=(
                "What is the ordinal of {item}?",
                "Write the ordinal of {item} in words.",
                "Which ordinal belongs to {item}?",
                "Turn {item} into an ordinal.",
                "How do you say {item} as an ordinal?",
                "Give the ordinal form of {item}.",
            ),
            statements=(
                "The ordinal of {item} is {answer}.",
                "Number {item} in a row is the {answer}.",
                "Whoever has number {item} is the {answer} in the queue.",
                "From {item} we form the ordinal {answer}.",
            ),
        ),
        "dates": Phrases(
            questions=(
                "How is the date {item} written in words?",
                "Write the date {item} in full.",
                "Which day is {item}?",
                "What date does {item} stand for?",
                "How do you read the date {item}?",
                "Give the date {item} with the name of the month.",
                "Which date is meant by {item}?",
                "Write out {item} as a date.",
            ),
            statements=(
                "The date {item} is {answer}.",
                "The contract was signed on {answer} ({item}).",
                "The note {item} means {answer}.",
                "It happened on {answer}, that is {item}.",
                "The letter is dated {item}, which is {answer}.",
                "In full, {item} reads {answer}.",
            ),
        ),
        "amounts": Phrases(
            questions=(
                "How is {item} written in full?",
                "What does {item} stand for?",
                "Write {item} without abbreviations.",
                "What is {item} without abbreviations?",
                "Expand the abbreviation: {item}.",
                "How do you write out {item}?",
            ),
            statements=(
                "The note {item} reads {answer} in full.",
                "{item} means {answer}.",
                "Without abbreviations {item} is {answer}.",
                "The sign says {item}, that is {answer}.",
                "The short form of {answer} is {item}.",
            ),
        ),
        "countries": Phrases(
            questions=(
                "Which country has the code {item}?",
                "Name the country with the code {item}.",
                "What country does {item} stand for?",
                "The code {item} is for which country?",
                "Whose country code is {item}?",
            ),
            statements=(
                "The code {item} is that of {answer}.",
                "The country with the code {item} is {answer}.",
                "{item} stands for {answer}.",
            ),
        ),
    },
)
