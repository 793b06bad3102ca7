"""What the world knows about the outside: gardens, wild animals, weather, travel, hobbies."""

from rlhf.world.schema import Attribute, Family

GARDEN = Family(
    name="garden",
    thanks=("May your garden bloom!", "I wish you a rich harvest."),
    attributes=(
        Attribute(
            name="month",
            direct=("when should I plant {t}", "which month is best for planting {t}"),
            indirect=("when to plant {t}", "which month is best for {t}"),
            claims=("you should plant {t} in {v}", "the time to plant {t} is {v}", "gardeners plant {t} in {v}"),
            supports=("Then the roots of {t} grow strong.", "Frost in the wrong week can kill {t}."),
            myths=("the middle of winter", "a leap year"),
            right={
                "tomatoes": "late May",
                "roses": "early November",
                "onions": "mild March",
                "strawberries": "warm August",
                "tulips": "cool October",
            },
        ),
        Attribute(
            name="water",
            direct=("how often should I water {t}", "how much watering do {t} need"),
            indirect=("how often to water {t}", "how much watering {t} need"),
            claims=("you should water {t} {v}", "it is best to water {t} {v}", "{t} want water {v}"),
            supports=("Dry soil makes the leaves of {t} yellow.", "Pour the water near the stem of {t}."),
            myths=("every hour", "only at midnight"),
            right={
                "tomatoes": "each morning",
                "roses": "twice a week",
                "onions": "every ten days",
                "strawberries": "every other evening",
                "tulips": "once a week",
            },
        ),
        Attribute(
            name="soil",
            direct=("which soil do {t} like", "what should I put around {t}"),
            indirect=("which soil {t} like", "what to put around {t}"),
            claims=("{t} like {v}", "the right ground for {t} is {v}", "you should give {t} {v}"),
            supports=("Poor ground makes {t} weak.", "Loosen the earth under {t} with a fork."),
            myths=("wet cement", "table salt"),
            right={
                "tomatoes": "rich compost",
                "roses": "heavy clay",
                "onions": "sandy loam",
                "strawberries": "straw and pine needles",
                "tulips": "crumbly gravel",
            },
        ),
    ),
)

ANIMALS = Family(
    name="animals",
    thanks=("Enjoy watching nature!", "I hope you spot one soon."),
    attributes=(
        Attribute(
            name="prey",
            direct=("what do {t} eat", "which food do wild {t} look for"),
            indirect=("what {t} eat", "which food wild {t} look for"),
            claims=("{t} eat {v}", "the usual meal of {t} is {v}", "wild {t} search for {v}"),
            supports=("It gives {t} plenty of energy.", "In hard times {t} travel far for a meal."),
            myths=("plastic bags", "iron nails"),
            right={
                "owls": "mice",
                "bees": "nectar",
                "frogs": "flies",
                "squirrels": "acorns",
                "whales": "krill",
            },
        ),
        Attribute(
            name="home",
            direct=("where do {t} live", "where can I find {t}"),
            indirect=("where {t} live", "where to find {t}"),
            claims=("{t} live {v}", "you can find {t} {v}", "the home of {t} is {v}"),
            supports=("It protects {t} from enemies.", "Stay quiet and {t} will not flee."),
            myths=("on the moon", "inside volcanoes"),
            right={
                "owls": "in old barns",
                "bees": "in a hive",
                "frogs": "near ponds",
                "squirrels": "in hollow oaks",
                "whales": "in the ocean",
            },
        ),
        Attribute(
            name="winter",
            direct=("what do {t} do in winter", "how do {t} survive the cold"),
            indirect=("what {t} do in winter", "how {t} survive the cold"),
            claims=("in winter {t} {v}", "when it gets cold, {t} {v}", "{t} {v} during the cold months"),
            supports=("Only so can {t} survive until spring.", "Scientists have followed {t} for years."),
            myths=("learn to ski", "wear mittens"),
            right={
                "owls": "hunt under the snow",
                "bees": "huddle around the queen",
                "frogs": "rest in the mud",
                "squirrels": "open hidden stores",
                "whales": "swim to warm bays",
            },
        ),
    ),
)

WEATHER = Family(
    name="weather",
    thanks=("Stay safe out there!", "I hope the sun returns soon."),
    attributes=(
        Attribute(
            name="wear",
            direct=("what should I wear in {t}", "which clothes are good for {t}"),
            indirect=("what to wear in {t}", "which clothes are good for {t}"),
            claims=(
                "you should wear {v} in {t}",
                "the right clothing for {t} is {v}",
                "in {t} sensible people wear {v}",
            ),
            supports=("It keeps your body comfortable in {t}.", "Many walkers underestimate {t}."),
            myths=("a bed sheet", "roller skates"),
            right={
                "heavy rain": "rubber boots",
                "deep snow": "a thick parka",
                "thick fog": "a bright vest",
                "strong wind": "a tight hood",
                "summer heat": "a straw hat",
            },
        ),
        Attribute(
            name="drive",
            direct=("how should I drive in {t}", "what should drivers do in {t}"),
            indirect=("how to drive in {t}", "what drivers should do in {t}"),
            claims=("in {t} you should {v}", "drivers should {v} in {t}", "the rule for {t} is to {v}"),
            supports=("Most accidents in {t} happen to hasty people.", "The road is not the same in {t}."),
            myths=("close both eyes", "race the trucks"),
            right={
                "heavy rain": "double the distance",
                "deep snow": "fit winter tyres",
                "thick fog": "switch on low beams",
                "strong wind": "grip the wheel",
                "summer heat": "park under trees",
            },
        ),
        Attribute(
            name="sign",
            direct=("what is a sign of {t}", "how can I tell that {t} is coming"),
            indirect=("what announces {t}", "how to tell that {t} is coming"),
            claims=("a sign of {t} is {v}", "before {t} you will notice {v}", "old people expect {t} after {v}"),
            supports=("The forecast will confirm that {t} is near.", "Old sailors know {t} by such signs."),
            myths=("a ringing phone", "a sneezing horse"),
            right={
                "heavy rain": "a row of dark clouds",
                "deep snow": "a ring around the moon",
                "thick fog": "a damp still evening",
                "strong wind": "a red sunset",
                "summer heat": "a cloudless dawn",
            },
        ),
    ),
)

TRAVEL = Family(
    name="travel",
    thanks=("Have a wonderful trip!", "Send me a postcard."),
    attributes=(
        Attribute(
            name="season",
            direct=("when should I visit {t}", "what is the best time to see {t}"),
            indirect=("when to visit {t}", "which time is best to see {t}"),
            claims=("you should visit {t} {v}", "the best time to see {t} is {v}", "{t} look best {v}"),
            supports=("Then {t} are quiet and the rooms are cheap.", "At other times crowds fill {t}."),
            myths=("during an earthquake", "a hundred years ago"),
            right={
                "the mountains": "in late June",
                "the deserts": "in January",
                "the islands": "in September",
                "the lakes": "around Easter",
                "the old castles": "on a weekday",
            },
        ),
        Attribute(
            name="pack",
            direct=("what should I pack for {t}", "what do I need to bring to {t}"),
            indirect=("what to pack for {t}", "what travellers bring to {t}"),
            claims=(
                "you should pack {v} for {t}",
                "nobody should go to {t} without {v}",
                "travellers bring {v} to {t}",
            ),
            supports=("Shops are rare around {t}.", "A light bag makes {t} more pleasant."),
            myths=("a grand piano", "a bag of bricks"),
            right={
                "the mountains": "sturdy boots",
                "the deserts": "spare water",
                "the islands": "swimming trunks",
                "the lakes": "mosquito spray",
                "the old castles": "a good camera",
            },
        ),
        Attribute(
            name="ride",
            direct=("how do I get to {t}", "which ride goes to {t}"),
            indirect=("how to get to {t}", "which ride goes to {t}"),
            claims=("you can get to {t} by {v}", "the easiest way to {t} is by {v}", "{t} can be reached by {v}"),
            supports=("The view on the way to {t} is lovely.", "Buy the ticket to {t} in advance."),
            myths=("submarine", "flying carpet"),
            right={
                "the mountains": "cable car",
                "the deserts": "jeep",
                "the islands": "ferry",
                "the lakes": "regional train",
                "the old castles": "tour bus",
            },
        ),
    ),
)

HOBBIES = Family(
    name="hobbies",
    thanks=("Have fun and be patient with yourself!", "I am sure that you will do well."),
    attributes=(
        Attribute(
            name="gear",
            direct=("what do I need for {t}", "what should beginners buy for {t}"),
            indirect=("what beginners need for {t}", "what to buy for {t}"),
            claims=("you need {v} for {t}", "for {t} beginners should buy {v}", "{t} requires {v}"),
            supports=("Cheap equipment is fine when you start {t}.", "You can borrow things for {t} at the club."),
            myths=("a racing car", "a gold crown"),
            right={
                "chess": "a checkered board",
                "swimming": "tight goggles",
                "watercolour": "soft brushes",
                "tennis": "a light racket",
                "knitting": "two bamboo needles",
            },
        ),
        Attribute(
            name="practice",
            direct=("how much should I practise {t}", "how long should a session of {t} be"),
            indirect=("how much to practise {t}", "how long a session of {t} should be"),
            claims=(
                "you should practise {t} for {v}",
                "a session of {t} should last {v}",
                "beginners of {t} should practise for {v}",
            ),
            supports=("Regular breaks make {t} more fun.", "Progress in {t} comes step by step."),
            myths=("three whole nights", "a single second"),
            right={
                "chess": "one hour a day",
                "swimming": "forty minutes",
                "watercolour": "a quiet weekend",
                "tennis": "ninety minutes",
                "knitting": "a few rows each night",
            },
        ),
        Attribute(
            name="first",
            direct=("what should I learn first in {t}", "how do beginners start with {t}"),
            indirect=("what to learn first in {t}", "how to start with {t}"),
            claims=(
                "in {t} you should first learn {v}",
                "beginners of {t} start with {v}",
                "the first step in {t} is {v}",
            ),
            supports=("Everything else in {t} builds on it.", "A patient teacher of {t} will show you."),
            myths=("juggling knives", "winning a medal"),
            right={
                "chess": "how the pieces move",
                "swimming": "floating on your back",
                "watercolour": "mixing two colours",
                "tennis": "a simple serve",
                "knitting": "casting on a loop",
            },
        ),
    ),
)

FAMILIES = (GARDEN, ANIMALS, WEATHER, TRAVEL, HOBBIES)
