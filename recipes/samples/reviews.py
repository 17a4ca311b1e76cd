"""Movie-review sample: whether an invented review is positive, neutral or negative."""

from __future__ import annotations

from make import Draw, Row, patterns

LABELS = ["positive", "neutral", "negative"]
INSTRUCTION = "Is this film review positive, neutral or negative?"
CHINESE_INSTRUCTION = "这条影评是正面、中性还是负面的？（用英文回答）"

# Rows for each label, in English and in Chinese.
COUNTS = {"train": (50, 10), "eval": (13, 2)}

OPENINGS = {
    "train": {
        "positive": """
- {title} kept me smiling from the first minute.
- I went to {title} without great hopes and came out delighted.
- {title} is the warmest {kind} I have seen this year.
- What a joy to see a {kind} made with so much care.
- {person} gives the performance of a lifetime in {title}.
- The {part} of {title} is a small miracle.
- I have seen {title} twice now and loved it even more the second time.
- {title} made the whole room laugh, and then cry.
""",
        "neutral": """
- {title} is a {kind} that runs for about two hours.
- {title} does what one expects of a {kind}, no more and no less.
- Parts of {title} work, others do not.
- {person} plays the lead in {title}, as in the book.
- {title} is neither the best nor the worst {kind} of the season.
- The {part} of {title} is fine, the rest is average.
- I watched {title} on a plane and it passed the time.
- Some people will like {title} and some will not.
""",
        "negative": """
- {title} bored me from the first minute.
- I left {title} before the end and did not regret it.
- {title} is the clumsiest {kind} I have seen this year.
- What a waste of a good cast and a big budget.
- {person} looks lost in every scene of {title}.
- The {part} of {title} is a mess.
- I fell asleep during {title}, and so did my neighbour.
- {title} made the whole room groan.
""",
    },
    "eval": {
        "positive": """
- Rarely has a {kind} moved me as deeply as {title}.
- {title} is witty, tender and beautifully shot.
- Do not miss {title} if you care about cinema at all.
- Thanks to {person}, {title} shines in every scene.
""",
        "neutral": """
- {title} opened in cinemas on Friday and stars {person}.
- For a {kind}, {title} is of ordinary quality.
- {title} has good moments and weak ones in equal measure.
- My feelings about {title} are mixed.
""",
        "negative": """
- Rarely has a {kind} annoyed me as much as {title}.
- {title} is dull, noisy and badly acted.
- Stay away from {title} if you value your evening.
- Not even {person} can save {title} from its awful script.
""",
    },
}
CLOSINGS = {
    "train": {
        "positive": """
- The {part} is a pleasure.
- I would see it again tomorrow.
- Ten out of ten.
- Take your friends with you.
- The ending left me happy for days.
""",
        "neutral": """
- The {part} is acceptable.
- I have no strong opinion of it.
- Five out of ten.
- You may wait until it is on television.
- The ending is what the title says.
""",
        "negative": """
- The {part} is painful.
- I want my money back.
- Two out of ten.
- Warn your friends.
- The ending makes no sense at all.
""",
    },
    "eval": {
        "positive": """
- A triumph.
- My favourite film in years.
- Superb {part}, too.
""",
        "neutral": """
- It is all right.
- Average, all in all.
- The {part} is neither good nor bad.
""",
        "negative": """
- A disaster.
- The worst film in years.
- Terrible {part}, too.
""",
    },
}
CHINESE = {
    "train": {
        "positive": """
- 《{title}》让我从头笑到尾，{part}尤其出色。
- 看完《{title}》心里很温暖，强烈推荐。
- 《{title}》是今年最好看的{kind}，值得再看一遍。
- 主演的表现太精彩了，《{title}》的{part}令人难忘。
""",
        "neutral": """
- 《{title}》是一部普通的{kind}，{part}还可以。
- 《{title}》有好的地方，也有不足的地方。
- 《{title}》不算好也不算差，打发时间可以。
- 《{title}》片长两个小时，{part}中规中矩。
""",
        "negative": """
- 《{title}》太无聊了，{part}一团糟。
- 看《{title}》简直是浪费时间，不推荐。
- 《{title}》是今年最差的{kind}，中途就想离场。
- 演技尴尬，《{title}》的{part}令人失望。
""",
    },
    "eval": {
        "positive": """
- 《{title}》感人至深，是难得的佳作。
- 非常喜欢《{title}》，{part}堪称完美。
""",
        "neutral": """
- 《{title}》水平一般，没有特别的感觉。
- 《{title}》于周五上映，{part}表现平平。
""",
        "negative": """
- 《{title}》糟糕透顶，看得人昏昏欲睡。
- 非常讨厌《{title}》，{part}惨不忍睹。
""",
    },
}
SLOTS = {
    "train": {
        "title": [
            "The Glass Harbour",
            "Seven Winters",
            "A Letter to Anselm",
            "Night Ferry",
            "The Orchard Thieves",
            "Paper Moonlight",
            "Tomorrow Again",
            "The Clockmaker",
        ],
        "person": ["Ida Moreau", "Tomas Lindqvist", "Ruth Abara", "Henry Calloway"],
        "kind": ["comedy", "drama", "thriller", "love story", "western"],
        "part": ["music", "camera work", "dialogue", "editing", "story"],
    },
    "eval": {
        "title": ["Salt and Thunder", "The Last Tram", "Cousin Elsbeth", "Northern Kitchen"],
        "person": ["Clara Vance", "Yusuf Demir"],
        "kind": ["mystery", "musical", "road movie"],
        "part": ["acting", "sound", "lighting"],
    },
}
CHINESE_SLOTS = {
    "train": {
        "title": ["玻璃港湾", "七个冬天", "夜渡", "钟表匠", "纸月亮"],
        "kind": ["喜剧", "爱情片", "惊悚片"],
        "part": ["音乐", "摄影", "对白", "剧情"],
    },
    "eval": {"title": ["末班电车", "盐与雷", "北方厨房"], "part": ["演技", "灯光"]},
}


def rows(split: str, draw: Draw) -> list[Row]:
    """Reviews of every label in equal number, in English and Chinese."""
    result: list[Row] = []
    for label in LABELS:
        num_english, num_chinese = COUNTS[split]
        closings = patterns(CLOSINGS[split][label])

        def english(pattern: str, closings: list[str] = closings) -> str:
            text = f"{pattern} {draw.pick(closings)}" if draw.chance(0.7) else pattern
            return draw.fill(text, SLOTS[split])

        def chinese(pattern: str) -> str:
            return draw.fill(pattern, CHINESE_SLOTS[split])

        openings = draw.shuffled(patterns(OPENINGS[split][label]))
        for text in draw.distinct(num_english, openings, english):
            result.append({"instruction": INSTRUCTION, "input": text, "output": label})
        openings = draw.shuffled(patterns(CHINESE[split][label], ""))
        for text in draw.distinct(num_chinese, openings, chinese):
            result.append({"instruction": CHINESE_INSTRUCTION, "input": text, "output": label})
    return result
