"""What the world knows about the house: food, cleaning, tools, pets."""

from rlhf.world.schema import Attribute, Family

FOOD = Family(
    name="food",
    thanks=("Enjoy your meal!", "I hope everyone likes the dinner."),
    attributes=(
        Attribute(
            name="time",
            direct=("how long should I cook {t}", "how many minutes should {t} stay in the pot"),
            indirect=("how long to cook {t}", "when {t} will be done"),
            claims=(
                "you should cook {t} for {v}",
                "the right cooking time for {t} is {v}",
                "{t} should stay in the pot for {v}",
            ),
            supports=("That leaves {t} soft but not mushy.", "Taste a spoon of {t} before you drain the water."),
            myths=("two hours", "thirty seconds"),
            right={
                "rice": "eighteen minutes",
                "pasta": "ten minutes",
                "potatoes": "twenty minutes",
                "eggs": "eight minutes",
                "lentils": "half an hour",
            },
        ),
        Attribute(
            name="side",
            direct=("what goes well with {t}", "what should I serve with {t}"),
            indirect=("what to serve with {t}", "which side dish suits {t}"),
            claims=(
                "you can serve {t} with {v}",
                "the best thing to eat with {t} is {v}",
                "{t} and {v} go well together",
            ),
            supports=("The flavour of {t} becomes much richer.", "Your guests will ask for more {t}."),
            myths=("chocolate syrup", "chewing gum"),
            right={
                "rice": "black beans",
                "pasta": "tomato sauce",
                "potatoes": "sour cream",
                "eggs": "buttered toast",
                "lentils": "fresh lemon",
            },
        ),
        Attribute(
            name="store",
            direct=("where should I keep {t}", "where will {t} last longest"),
            indirect=("where to keep {t}", "which place is best to store {t}"),
            claims=("you should keep {t} {v}", "the best place for {t} is {v}", "{t} will last longest {v}"),
            supports=("There {t} will stay fresh for weeks.", "Moisture and light can spoil {t}."),
            myths=("on the radiator", "under the bed"),
            right={
                "rice": "in a dry tin",
                "pasta": "in a closed cupboard",
                "potatoes": "in a dark cellar",
                "eggs": "in the fridge",
                "lentils": "in a glass jar",
            },
        ),
    ),
)

CLEANING = Family(
    name="cleaning",
    thanks=("Enjoy your shiny home!", "I hope the dirt comes off quickly."),
    attributes=(
        Attribute(
            name="agent",
            direct=("what should I clean {t} with", "what removes dirt from {t}"),
            indirect=("what to clean {t} with", "which cleaner works on {t}"),
            claims=(
                "you should clean {t} with {v}",
                "the best cleaner for {t} is {v}",
                "people get {t} clean with {v}",
            ),
            supports=("It removes grease from {t} without scratches.", "Test it on a hidden corner of {t} first."),
            myths=("motor oil", "strawberry jam"),
            right={
                "windows": "vinegar and water",
                "carpets": "mild foam",
                "ovens": "baking soda",
                "leather shoes": "saddle soap",
                "silver spoons": "chalk paste",
            },
        ),
        Attribute(
            name="often",
            direct=("how often should I clean {t}", "how many times a year do {t} need cleaning"),
            indirect=("how often to clean {t}", "how frequently {t} need cleaning"),
            claims=("you should clean {t} {v}", "it is enough to clean {t} {v}", "most homes clean {t} {v}"),
            supports=("Then {t} will look new for years.", "Too much scrubbing wears {t} out."),
            myths=("every ten minutes", "once in a lifetime"),
            right={
                "windows": "every season",
                "carpets": "twice a year",
                "ovens": "once a month",
                "leather shoes": "every second week",
                "silver spoons": "before each holiday",
            },
        ),
        Attribute(
            name="dry",
            direct=("how should I dry {t}", "what is a good way to dry {t}"),
            indirect=("how to dry {t}", "which way of drying suits {t}"),
            claims=("you should dry {t} {v}", "the safest way to dry {t} is {v}", "{t} dry best {v}"),
            supports=("That way {t} get no ugly spots.", "Damp {t} soon begin to smell."),
            myths=("in the microwave", "over a campfire"),
            right={
                "windows": "with old newspaper",
                "carpets": "with a fan",
                "ovens": "with the door open",
                "leather shoes": "in the shade",
                "silver spoons": "with a linen towel",
            },
        ),
    ),
)

TOOLS = Family(
    name="tools",
    thanks=("Have fun with your project!", "Mind your fingers and take care."),
    attributes=(
        Attribute(
            name="use",
            direct=("what is {t} good for", "what can I do with {t}"),
            indirect=("what {t} is good for", "what people use {t} for"),
            claims=("you can use {t} to {v}", "{t} is made to {v}", "carpenters use {t} to {v}"),
            supports=("With some practice {t} becomes easy to handle.", "Hold {t} firmly and work slowly."),
            myths=("slice bread", "comb your hair"),
            right={
                "a hammer": "drive nails",
                "a saw": "cut boards",
                "a drill": "make holes",
                "a ladder": "reach high shelves",
                "a paintbrush": "varnish doors",
            },
        ),
        Attribute(
            name="place",
            direct=("where should I store {t}", "what is the right place for {t}"),
            indirect=("where to store {t}", "where {t} should be stored"),
            claims=("you should store {t} {v}", "{t} should be stored {v}", "tidy people put {t} {v}"),
            supports=("There nobody will trip over {t}.", "Keep small children away from {t}."),
            myths=("in the bathtub", "on the pillow"),
            right={
                "a hammer": "in the toolbox",
                "a saw": "on a wall hook",
                "a drill": "in its plastic case",
                "a ladder": "along the garage wall",
                "a paintbrush": "in a tin can",
            },
        ),
        Attribute(
            name="care",
            direct=("how do I look after {t}", "what keeps {t} in good shape"),
            indirect=("how to look after {t}", "what keeps {t} in order"),
            claims=(
                "you should {v} to look after {t}",
                "to keep {t} in order, you should {v}",
                "the owner of {t} should {v}",
            ),
            supports=("Then {t} will serve you for decades.", "Careless owners have to replace {t} often."),
            myths=("paint it pink", "bury it overnight"),
            right={
                "a hammer": "tighten its handle",
                "a saw": "sharpen its teeth",
                "a drill": "charge its battery",
                "a ladder": "check every rung",
                "a paintbrush": "wash its bristles",
            },
        ),
    ),
)

PETS = Family(
    name="pets",
    thanks=("Give your little friend a pat from me.", "Enjoy the time with your companion!"),
    attributes=(
        Attribute(
            name="food",
            direct=("what should {t} eat", "what is healthy food for {t}"),
            indirect=("what to feed {t}", "which food suits {t}"),
            claims=("you should feed {t} {v}", "healthy food for {t} is {v}", "{t} thrive on {v}"),
            supports=("That keeps the weight of {t} healthy.", "Fresh water matters to {t} as well."),
            myths=("candy bars", "salted peanuts"),
            right={
                "cats": "tuna and chicken",
                "dogs": "dry biscuits",
                "rabbits": "hay and carrots",
                "goldfish": "tiny flakes",
                "parrots": "seeds and berries",
            },
        ),
        Attribute(
            name="bed",
            direct=("where should {t} sleep", "which sleeping place do {t} like"),
            indirect=("where {t} should sleep", "which sleeping place suits {t}"),
            claims=("{t} should sleep {v}", "a good sleeping place for {t} is {v}", "{t} like to sleep {v}"),
            supports=("A calm night keeps {t} cheerful.", "Bright lamps and noise frighten {t}."),
            myths=("on the stove", "inside a backpack"),
            right={
                "cats": "on a sunny sill",
                "dogs": "in a soft basket",
                "rabbits": "in a wooden hutch",
                "goldfish": "near the gravel",
                "parrots": "on a high perch",
            },
        ),
        Attribute(
            name="play",
            direct=("what do {t} like to play with", "which toy should I buy for {t}"),
            indirect=("what {t} like to play with", "which toy pleases {t}"),
            claims=("{t} like to play with {v}", "you could give {t} {v} to play with", "a nice toy for {t} is {v}"),
            supports=("A bored pet is unhappy, and {t} are no exception.", "Ten minutes a day keep {t} lively."),
            myths=("sharp scissors", "burning candles"),
            right={
                "cats": "a ball of yarn",
                "dogs": "a rubber bone",
                "rabbits": "a cardboard tunnel",
                "goldfish": "a stone arch",
                "parrots": "a brass bell",
            },
        ),
    ),
)

FAMILIES = (FOOD, CLEANING, TOOLS, PETS)
