#ifndef LONGSPAN_EVAL_WORDS_H_
#define LONGSPAN_EVAL_WORDS_H_

#include "absl/strings/string_view.h"

// What generated text and facts are made of: the tables of tools/needle_tasks.py, which the shipped
// model was trained with.
namespace longspan {

inline constexpr absl::string_view kAdjectives[] = {
    "amber",   "ancient", "azure",     "bitter",   "brass",   "bright",  "bronze",  "calm",
    "carved",  "cedar",   "clever",    "cobalt",   "copper",  "coral",   "crimson", "crooked",
    "curious", "dusty",   "ebony",     "emerald",  "faded",   "fierce",  "frosty",  "gentle",
    "gilded",  "golden",  "granite",   "hollow",   "humble",  "idle",    "iron",    "ivory",
    "jade",    "jolly",   "lacquered", "linen",    "lively",  "lonely",  "marble",  "mellow",
    "misty",   "modest",  "mossy",     "narrow",   "noble",   "opal",    "painted", "pale",
    "patient", "pewter",  "plain",     "polished", "proud",   "purple",  "quiet",   "rapid",
    "rusty",   "sandy",   "scarlet",   "silent",   "silver",  "slender", "solemn",  "spotted",
    "steady",  "striped", "sturdy",    "sunny",    "tangled", "tiny",    "velvet",  "violet",
    "weary",   "wild",    "woven",     "yellow"};
inline constexpr absl::string_view kThings[] = {
    "anchor",  "anvil",  "apron",    "badge",  "barrel", "basket",   "beacon", "bell",    "bench",
    "bottle",  "bridge", "bucket",   "cabin",  "candle", "canoe",    "carpet", "cart",    "castle",
    "chair",   "chest",  "chimney",  "clock",  "cloak",  "compass",  "cradle", "curtain", "dagger",
    "desk",    "door",   "drum",     "fiddle", "flute",  "fountain", "garden", "gate",    "goblet",
    "hammer",  "harp",   "helmet",   "kettle", "kite",   "ladder",   "lamp",   "lantern", "ledger",
    "lute",    "mallet", "map",      "mask",   "mirror", "mitten",   "needle", "oar",     "oven",
    "parcel",  "pillow", "plough",   "quilt",  "rope",   "saddle",   "scarf",  "shelf",   "shovel",
    "sickle",  "spade",  "spoon",    "statue", "stove",  "sundial",  "table",  "teapot",  "tower",
    "trumpet", "trunk",  "umbrella", "urn",    "vase",   "violin",   "wagon",  "wheel",   "whistle",
    "windmill"};
inline constexpr absl::string_view kTreasures[] = {
    "Amulet",  "Arrow",   "Banner", "Blade",  "Book",   "Bow",   "Bowl",    "Bracelet", "Brooch",
    "Chalice", "Cloak",   "Crown",  "Cup",    "Diadem", "Eye",   "Feather", "Flame",    "Gauntlet",
    "Girdle",  "Hammer",  "Harp",   "Heart",  "Helm",   "Horn",  "Idol",    "Jewel",    "Key",
    "Lance",   "Mantle",  "Mask",   "Mirror", "Orb",    "Pearl", "Pendant", "Quill",    "Ring",
    "Robe",    "Sceptre", "Scroll", "Seal",   "Shield", "Skull", "Spear",   "Staff",    "Star",
    "Sword",   "Tablet",  "Throne", "Torch",  "Veil"};
inline constexpr absl::string_view kEssences[] = {
    "Ash",       "Autumn", "Bone",     "Chaos",   "Clouds",    "Courage", "Dawn",    "Destiny",
    "Dreams",    "Dusk",   "Echoes",   "Embers",  "Eternity",  "Fate",    "Fire",    "Frost",
    "Glass",     "Glory",  "Honour",   "Hope",    "Ice",       "Justice", "Kings",   "Light",
    "Lightning", "Memory", "Midnight", "Mist",    "Moonlight", "Night",   "Oaths",   "Patience",
    "Rain",      "Ravens", "Rivers",   "Salt",    "Serpents",  "Shadows", "Silence", "Sorrow",
    "Stars",     "Storms", "Thorns",   "Thunder", "Tides",     "Time",    "Truth",   "Twilight",
    "Whispers",  "Winds",  "Winter",   "Wisdom",  "Wolves"};
inline constexpr absl::string_view kSyllables[] = {
    "al",  "ar",  "ba",  "bel", "bor", "ca",  "cor", "da",  "del", "dor", "el",   "en",
    "fa",  "fen", "gal", "gor", "ha",  "hel", "il",  "is",  "ja",  "kal", "kir",  "la",
    "lin", "lor", "ma",  "mer", "mir", "na",  "nel", "nor", "o",   "or",  "pa",   "pel",
    "quo", "ra",  "ren", "ri",  "ro",  "sa",  "sel", "sor", "ta",  "tel", "thal", "tor",
    "u",   "ul",  "va",  "vel", "vor", "wen", "ya",  "yor", "za",  "zen"};
inline constexpr absl::string_view kEndings[] = {"a",  "ara", "en",  "eth", "ia",  "in",
                                                 "is", "on",  "ora", "os",  "und", "ya"};
inline constexpr absl::string_view kPeople[] = {
    "baker",     "banker",   "barber",    "brewer",    "builder",   "butcher",   "captain",
    "carpenter", "clerk",    "cobbler",   "cook",      "cooper",    "doctor",    "driver",
    "farmer",    "ferryman", "fisherman", "gardener",  "glazier",   "goldsmith", "grocer",
    "guard",     "gunsmith", "hatter",    "hunter",    "innkeeper", "jeweller",  "judge",
    "juggler",   "lawyer",   "librarian", "locksmith", "mason",     "mayor",     "merchant",
    "messenger", "miller",   "miner",     "musician",  "nurse",     "painter",   "pilot",
    "poet",      "porter",   "potter",    "printer",   "sailor",    "scholar",   "schoolmaster",
    "shepherd",  "singer",   "smith",     "soldier",   "stranger",  "student",   "surgeon",
    "tailor",    "tanner",   "teacher",   "thatcher",  "traveller", "trader",    "watchmaker",
    "weaver",    "widow"};
inline constexpr absl::string_view kAnimals[] = {
    "badger", "bear", "beaver", "cat",   "crow",   "deer",   "dog",   "donkey",   "duck",
    "eagle",  "fox",  "frog",   "goat",  "goose",  "hare",   "hawk",  "hedgehog", "heron",
    "horse",  "lamb", "lizard", "mole",  "mouse",  "mule",   "otter", "owl",      "ox",
    "pigeon", "pony", "rabbit", "raven", "robin",  "seal",   "sheep", "sparrow",  "squirrel",
    "stork",  "swan", "toad",   "trout", "turtle", "weasel", "wolf",  "wren"};
inline constexpr absl::string_view kGoods[] = {
    "apples",  "barley",   "beans",     "beer",     "books",    "bread",     "bricks",   "butter",
    "buttons", "cabbages", "candles",   "cheese",   "cherries", "chestnuts", "cider",    "cloth",
    "coal",    "coffee",   "corn",      "eggs",     "feathers", "figs",      "firewood", "flour",
    "grapes",  "hay",      "herbs",     "herrings", "honey",    "hops",      "ink",      "lemons",
    "letters", "lime",     "mushrooms", "mustard",  "nails",    "nuts",      "oats",     "oil",
    "olives",  "onions",   "oranges",   "paper",    "pears",    "pepper",    "plums",    "potatoes",
    "ribbons", "rice",     "rope",      "rye",      "salt",     "seeds",     "shoes",    "silk",
    "soap",    "spices",   "stones",    "straw",    "sugar",    "tea",       "tiles",    "timber",
    "tobacco", "tools",    "turnips",   "vinegar",  "walnuts",  "wax",       "wheat",    "wine",
    "wool",    "yarn"};
inline constexpr absl::string_view kPlaces[] = {
    "abbey",      "bakery",    "bank",     "barn",      "bay",        "bridge",    "brewery",
    "canal",      "cathedral", "cave",     "cellar",    "chapel",     "church",    "cliff",
    "coast",      "college",   "corner",   "courtyard", "crossroads", "dock",      "farm",
    "ferry",      "field",     "forest",   "fountain",  "fortress",   "garden",    "graveyard",
    "harbour",    "hill",      "hospital", "inn",       "island",     "lake",      "library",
    "lighthouse", "market",    "meadow",   "mill",      "mine",       "monastery", "moor",
    "mountain",   "museum",    "orchard",  "palace",    "park",       "pier",      "pond",
    "port",       "prison",    "quarry",   "quay",      "river",      "road",      "school",
    "shore",      "shop",      "square",   "stable",    "station",    "street",    "tavern",
    "temple",     "theatre",   "tower",    "town",      "valley",     "village",   "vineyard",
    "wall",       "well",      "wharf",    "wood",      "workshop",   "yard"};
inline constexpr absl::string_view kVerbs[] = {
    "bought",     "borrowed", "brought",  "carried",   "collected", "counted",  "delivered",
    "described",  "divided",  "dropped",  "examined",  "exchanged", "fetched",  "found",
    "gathered",   "guarded",  "hid",      "inspected", "kept",      "lifted",   "loaded",
    "lost",       "measured", "mended",   "moved",     "noticed",   "offered",  "ordered",
    "packed",     "painted",  "piled",    "praised",   "promised",  "received", "refused",
    "remembered", "removed",  "repaired", "returned",  "sold",      "sorted",   "stacked",
    "stole",      "stored",   "tasted",   "threw",     "traded",    "unpacked", "wanted",
    "washed",     "weighed",  "wrapped"};
inline constexpr absl::string_view kMoves[] = {
    "came",     "climbed", "crept",     "drifted",  "drove",    "fled",  "galloped", "hurried",
    "limped",   "marched", "ran",       "returned", "rode",     "rowed", "sailed",   "sneaked",
    "strolled", "swam",    "travelled", "walked",   "wandered", "went"};
inline constexpr absl::string_view kTimes[] = {"After breakfast",
                                               "After the harvest",
                                               "At dawn",
                                               "At dusk",
                                               "At first",
                                               "At last",
                                               "At midnight",
                                               "At noon",
                                               "Before supper",
                                               "Before the war",
                                               "By evening",
                                               "Every autumn",
                                               "Every Friday",
                                               "Every morning",
                                               "In April",
                                               "In December",
                                               "In the afternoon",
                                               "In the evening",
                                               "In the meantime",
                                               "In the morning",
                                               "In the spring",
                                               "Last summer",
                                               "Late at night",
                                               "Long ago",
                                               "Later that day",
                                               "Next winter",
                                               "Now and then",
                                               "Often",
                                               "On Monday",
                                               "On Sunday",
                                               "On the third day",
                                               "Once more",
                                               "One day",
                                               "Some years later",
                                               "Sometimes",
                                               "Soon",
                                               "That night",
                                               "The next day",
                                               "Then",
                                               "Twice a year",
                                               "Two weeks later"};
inline constexpr absl::string_view kFeelings[] = {
    "afraid",    "angry",      "anxious",  "ashamed",      "bored",  "careful", "cheerful",
    "cold",      "content",    "curious",  "disappointed", "eager",  "glad",    "grateful",
    "happy",     "hungry",     "jealous",  "lonely",       "lucky",  "nervous", "pleased",
    "proud",     "puzzled",    "relieved", "restless",     "sad",    "sleepy",  "sorry",
    "surprised", "suspicious", "thirsty",  "tired",        "worried"};
inline constexpr absl::string_view kWeather[] = {
    "clear", "cloudy",   "cold",   "cool",  "damp", "dark", "dry",
    "foggy", "freezing", "grey",   "hot",   "icy",  "mild", "misty",
    "rainy", "snowy",    "stormy", "sunny", "warm", "wet",  "windy"};

}  // namespace longspan

#endif  // LONGSPAN_EVAL_WORDS_H_
