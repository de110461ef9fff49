"""The table of languages: English, Ukrainian (the target) and those that only tuning uses."""

from adapt.demo.languages import cs, de, en, es, fr, it, nl, pl, pt, ro, sv, uk
from adapt.demo.phrases import Language

LANGUAGES: dict[str, Language] = {
    module.LANGUAGE.code: module.LANGUAGE for module in (en, uk, de, fr, es, it, pl, pt, nl, sv, cs, ro)
}
