"""The words that name no thing: `noun_count` counts all others. Data only; an artefact records its hash."""

_FUNCTION = """
a all along also although always am among an and another any are around as aside at away be because
been before behind being below beneath beside besides between beyond both but by can could did do
does doing down during each either else every few for from had has have having he her here hers
herself him himself his how however i if in inside into is it it's its itself just like made many
may me might mine more most much must my near next no none nor not now of off on once one only onto
or other our ours out outside over own per plus please same shall she should since so some such than
that the their theirs them then there these they this those though through to together too toward
towards under until up upon us use using very via was we were what when where which while who whom
whose why will with within without would yet you your
"""
_NUMBERS = """
two three four five six seven eight nine ten eleven twelve dozen several couple pair single double
first second third
"""
_COLOURS = """
red orange yellow green cyan blue purple pink white black gray grey beige navy mint lavender brown
tan crimson scarlet tangerine lemon emerald turquoise aqua cobalt violet magenta lilac gold golden
silver teal maroon indigo ivory cream bronze colored coloured colorful colourful color colour colors
colours bright dark light pale deep vivid plain pure royal hot jet sky grass sand medium
"""
_SIZES = """
small little tiny large big huge giant gigantic tall short long wide narrow thick thin size sized
high low
"""
_PLACES = """
left right top bottom upper lower middle centre center central corner side edge front back above far
foreground background backdrop canvas
"""
_FRAMING = """
picture pictures image images photo photos photograph photography drawing painting illustration
sketch render rendering scene clip art artwork portrait closeup close-up view shot style draw paint
show showing shows see seen want create make generate appears sits placed shape shapes object
objects thing things figure figures sign simple flat everything round pointed
"""

STOP_WORDS: frozenset[str] = frozenset(
    f"{_FUNCTION} {_NUMBERS} {_COLOURS} {_SIZES} {_PLACES} {_FRAMING}".split()
)
