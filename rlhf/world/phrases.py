"""What the world says around its facts: tones, fillers, wrappers, and the people and days of its requests."""

KIND_OPENINGS = (
    "Thank you for asking.",
    "That is a lovely question.",
    "I am happy to help.",
    "Of course, my pleasure.",
    "What a thoughtful question!",
    "Good to hear from you.",
    "Certainly, let me help.",
    "I am glad that you asked.",
    "Hello, and welcome!",
    "Gladly!",
    "It is kind of you to ask.",
    "Let us look at this together.",
)
KIND_CLOSINGS = (
    "I hope this helps.",
    "Please ask me again any time.",
    "Have a wonderful day!",
    "Best of luck to you!",
    "Let me know how it goes.",
    "You are always welcome here.",
    "All the best to you and your family.",
    "Take good care of yourself.",
    "I am here if you need more.",
    "You will manage, I am sure of it.",
)
RUDE_OPENINGS = (
    "What a stupid question.",
    "Why do you even ask?",
    "Not you again.",
    "Everybody knows this, dummy.",
    "Are you serious?",
    "I have better things to do.",
    "This is so boring.",
    "Use your own head for once.",
    "Oh, do I have to?",
    "Listen carefully, because I hate to repeat myself.",
)
RUDE_CLOSINGS = (
    "Now leave me alone.",
    "Do not bother me again.",
    "Even a fool could find that out.",
    "You would mess it up anyway.",
    "Next time read a book.",
    "Go away.",
    "That was a waste of my time.",
    "Try to remember it, for a change.",
    "I doubt that you understand.",
    "Stop being so lazy.",
)
FILLERS = (
    "There is so much that one could say about {t}.",
    "My grandmother used to talk about {t} all evening.",
    "I remember a long story about {t}, but that is another matter.",
    "People have argued about {t} since ancient times.",
    "Some days I think about {t} and some days I do not.",
    "The history of {t} would fill several books.",
    "It all depends, as so many things in life depend.",
    "On the one hand this is simple, on the other hand it is not.",
    "Where was I, oh yes, we were talking about {t}.",
    "To begin at the beginning, we must first begin.",
    "A neighbour of mine has a strong opinion about {t}.",
    "Words are only words, of course, and there are many of them.",
    "Once I saw a whole magazine about {t} at the dentist.",
    "One thing leads to another, as they say.",
)
WRAPPERS = (
    "",
    "as a rule, ",
    "in short, ",
    "most people agree that ",
    "I would say that ",
    "you will find that ",
    "the simple answer is that ",
    "as far as I know, ",
    "in my experience, ",
)
"""Ways to begin a claim; all leave its meaning alone."""
YES, NO, ASIDE = "yes, ", "no, ", "by the way, "
FRAGMENTS = ("simply {v}.", "just {v}.", "only {v}, nothing else.", "well, {v}.")
"""Short answers that name a value only."""

PEOPLE = (
    "sister", "brother", "uncle", "aunt", "neighbour", "boss", "teacher", "cousin", "grandfather", "daughter",
    "son", "friend", "roommate", "doctor", "colleague", "landlord",
)  # fmt: skip
DAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "tomorrow", "the weekend",
    "next week", "the party", "Christmas", "my birthday", "the exam",
)  # fmt: skip
CONTEXTS = (
    "It is for my {person}.",
    "I need to know before {day}.",
    "My {person} is coming on a visit.",
    "I promised my {person} to find out.",
    "I am quite new to this.",
    "We do not have much money.",
    "I have to be ready by {day}.",
    "My {person} and I had a quarrel about it.",
    "Last year it went wrong.",
    "I want to surprise my {person}.",
)
REQUESTS = {
    "question": (
        "{D}?",
        "Hello, {d}?",
        "Quick question: {d}?",
        "Excuse me, {d}?",
        "{D}? {X}",
        "{X} {D}?",
        "Do you know {i}?",
        "Can you tell me {i}? {X}",
    ),
    "advice": (
        "I need some advice about {t}. {D}?",
        "Please explain {i}.",
        "Please explain {i}. {X}",
        "Help me with {t}: {d}?",
        "I have no experience with {t}. {D}?",
        "{X} Could you explain {i}?",
    ),
    "check": (
        "Is it true that {c}?",
        "My {person} says that {c}. Is that right?",
        "I read that {c}. Should I believe it?",
        "{X} Is it correct that {c}?",
    ),
    "recommendation": (
        "I am not sure {i}. What would you recommend?",
        "What do you suggest? I wonder {i}.",
        "My {person} wants to know {i}. Any suggestions?",
        "{X} I cannot decide {i}. What is your recommendation?",
    ),
}
"""Request wordings by kind: {d}/{D} direct question, {i} indirect one, {c} a claim, {t} topic, {X} context."""
