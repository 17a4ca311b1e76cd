"""Finance sample: the sentiment of an invented headline, and short definitions."""

from __future__ import annotations

from make import Draw, Row, facts, patterns

LABELS = ["positive", "negative", "neutral"]
INSTRUCTIONS = [
    "Give the sentiment of this headline.",
    "Is this headline positive, negative or neutral?",
]
CHINESE_INSTRUCTION = "判断这条财经标题的情绪（用英文回答）。"
DEFINE = "Define the term in one sentence."
CHINESE_DEFINE = "用一句话解释这个术语。"

# Rows for each label, in English and in Chinese.
COUNTS = {"train": (26, 5), "eval": (7, 1)}

HEADLINES = {
    "train": {
        "positive": """
- {firm} raises its full-year forecast after {quarter}-quarter sales climb {pct} percent
- Profit at {firm} beats estimates as demand for {product} stays strong
- {firm} wins a {sum} order for {product} and shares jump {pct} percent
- {firm} lifts its dividend by {pct} percent on record cash flow
- Regulators clear {firm} to sell its {product} in {market}
- {firm} returns to profit in the {quarter} quarter, helped by lower costs
- Analysts upgrade {firm} after margins widen for the third year running
- {firm} pays off {sum} of debt early and plans to hire in {market}
""",
        "negative": """
- {firm} cuts its full-year forecast after {quarter}-quarter sales drop {pct} percent
- Profit at {firm} misses estimates as demand for {product} weakens
- {firm} loses a {sum} order for {product} and shares slide {pct} percent
- {firm} suspends its dividend as cash runs short
- Regulators fine {firm} {sum} over faulty {product} in {market}
- {firm} reports a wider {quarter}-quarter loss and closes two plants
- Analysts downgrade {firm} after margins shrink for the third year running
- {firm} recalls its {product} in {market} and warns of higher costs
""",
        "neutral": """
- {firm} will publish its {quarter}-quarter results on {day}
- {firm} holds its annual meeting in {market} on {day}
- {firm} keeps its full-year forecast unchanged
- {quarter}-quarter sales at {firm} are in line with estimates
- {firm} names a new head of its {product} business in {market}
- Shares of {firm} are little changed before its report on {day}
- {firm} moves its head office within {market}
- {firm} refinances {sum} of loans on the same terms as before
""",
    },
    "eval": {
        "positive": """
- Strong {product} sales push earnings of {firm} to an all-time high
- {firm} stock rallies on news of a {sum} buyback
- Investors cheer as {firm} gains market share in {market}
- {firm} finishes a new factory ahead of plan and under budget
""",
        "negative": """
- {firm} stock tumbles on news of an accounting probe
- Weak {product} sales drag earnings of {firm} to a ten-year low
- Investors flee as {firm} warns that it may default on {sum} of bonds
- {firm} lays off a tenth of its staff in {market} as orders dry up
""",
        "neutral": """
- Earnings of {firm} match what analysts had expected
- {firm} to present its {product} at a trade fair in {market}
- {firm} renews its audit contract for another year
- {firm} stock closes flat in quiet trading on {day}
""",
    },
}
CHINESE_HEADLINES = {
    "train": {
        "positive": """
- {firm}上调全年业绩预期，{product}销量增长{pct}
- {firm}净利润超出市场预期，股价上涨{pct}
- {firm}获得一笔{sum}的{product}订单
""",
        "negative": """
- {firm}下调全年业绩预期，{product}销量下滑{pct}
- {firm}净利润低于市场预期，股价下跌{pct}
- {firm}因{product}质量问题被罚款{sum}
""",
        "neutral": """
- {firm}将于下周公布季度业绩
- {firm}任命新的{product}业务负责人
- {firm}维持全年业绩预期不变
""",
    },
    "eval": {
        "positive": "- 受{product}热销带动，{firm}盈利创历史新高",
        "negative": "- {firm}裁员一成，{product}工厂停产",
        "neutral": "- {firm}股价今日收盘基本持平",
    },
}
FIRMS = {
    "train": [
        {"firm": "Alder Foods", "product": "frozen meals"},
        {"firm": "Brightwater", "product": "pumps"},
        {"firm": "Corvin Motors", "product": "trucks"},
        {"firm": "Delmont Energy", "product": "batteries"},
        {"firm": "Eastgate Instruments", "product": "sensors"},
        {"firm": "Fenwick Medical", "product": "hearing aids"},
        {"firm": "Halden Rail", "product": "locomotives"},
        {"firm": "Lumen Optics", "product": "lenses"},
    ],
    "eval": [
        {"firm": "Marlow Sound", "product": "headsets"},
        {"firm": "Northfield", "product": "tractors"},
        {"firm": "Pinecrest Apparel", "product": "sportswear"},
        {"firm": "Quillon Power", "product": "turbines"},
    ],
}
CHINESE_FIRMS = {
    "train": [
        {"firm": "东岭电子", "product": "传感器"},
        {"firm": "海川汽车", "product": "卡车"},
        {"firm": "明远能源", "product": "电池"},
        {"firm": "青禾食品", "product": "冷冻食品"},
    ],
    "eval": [{"firm": "北原机械", "product": "拖拉机"}, {"firm": "蓝湾音响", "product": "耳机"}],
}
SLOTS = {
    "train": {
        "market": ["Brazil", "Japan", "Germany", "India", "Canada"],
        "quarter": ["first", "second", "third", "fourth"],
        "pct": ["4", "7", "12", "15", "21"],
        "sum": ["$30 million", "$65 million", "$400 million", "$1.2 billion"],
        "day": ["May 4", "July 28", "October 30", "Tuesday", "Thursday"],
    },
    "eval": {
        "market": ["Poland", "Mexico", "Vietnam", "Kenya"],
        "sum": ["$55 million", "$260 million", "$2 billion"],
        "day": ["Monday", "Friday"],
    },
}
CHINESE_SLOTS = {
    "pct": ["百分之五", "百分之八", "百分之十二"],
    "sum": ["三千万元", "两亿元"],
}

TERMS = {
    "train": """
- asset | An asset is something of value that a person or firm owns.
- liability | A liability is an amount that a person or firm owes.
- equity | Equity is the value of the assets that is left after all debts are subtracted.
- revenue | Revenue is the money that a firm earns from its sales before costs.
- net income | Net income is what remains of revenue after all costs and taxes.
- gross margin | Gross margin is the share of revenue left after the cost of goods sold.
- dividend | A dividend is a payment that a company makes to its shareholders from its profits.
- bond | A bond is a loan to a firm or state that pays interest and is repaid at maturity.
- stock | A stock is a share in the ownership of a company.
- interest | Interest is the price paid for borrowing money.
- compound interest | Compound interest is interest earned on the principal and on past interest.
- principal | Principal is the sum that was borrowed or invested, without interest.
- inflation | Inflation is a general rise in prices over time.
- deflation | Deflation is a general fall in prices over time.
- recession | A recession is a lasting and broad decline in economic activity.
- budget | A budget is a plan of income and spending for a period.
- cash flow | Cash flow is the movement of money into and out of a business.
- liquidity | Liquidity is how easily an asset can be turned into cash.
- diversification | Diversification is spreading money over different assets to lower risk.
- portfolio | A portfolio is the set of investments that a person or firm holds.
- mutual fund | A mutual fund pools the money of many people to buy a set of investments.
- index fund | An index fund tries to match the return of a market index.
- credit score | A credit score is a number that estimates how likely a person is to repay debt.
- default | A default is a failure to make a payment on a debt when it is due.
- depreciation | Depreciation spreads the cost of an asset over the years in which it is used.
- exchange rate | An exchange rate is the price of one currency in terms of another.
- market capitalization | Market capitalization is the share price times the number of shares.
- working capital | Working capital is current assets minus current liabilities.
- hedge | A hedge is a position taken to offset the risk of another position.
- volatility | Volatility is how much and how quickly a price moves up and down.
- yield | Yield is the income from an investment as a share of its price.
- fixed cost | A fixed cost does not change with the amount that a firm produces.
- variable cost | A variable cost rises and falls with the amount that a firm produces.
- audit | An audit is an independent check of a firm's financial records.
""",
    "eval": """
- balance sheet | A balance sheet lists what a firm owns and owes on a given date.
- initial public offering | An initial public offering is the first public sale of shares.
- bear market | A bear market is a long period in which prices fall.
- central bank | A central bank manages a country's currency and money supply.
- insurance premium | An insurance premium is the price paid for insurance cover.
- opportunity cost | Opportunity cost is the value of the best option that was given up.
- short selling | Short selling is selling a borrowed asset in the hope of buying it back for less.
""",
}
CHINESE_TERMS = {
    "train": """
- 资产 | 资产是个人或企业拥有的有价值的东西。
- 股息 | 股息是公司从利润中支付给股东的款项。
- 通货膨胀 | 通货膨胀是物价在一段时间内普遍上涨的现象。
- 复利 | 复利是对本金和以往利息一起计算的利息。
- 汇率 | 汇率是一种货币以另一种货币表示的价格。
""",
    "eval": """
- 负债 | 负债是个人或企业欠他人的款项。
- 分散投资 | 分散投资是把资金投向不同资产以降低风险的做法。
""",
}


def rows(split: str, draw: Draw) -> list[Row]:
    """Headlines of every label in equal number, then definitions, in English and Chinese."""

    def english(pattern: str) -> str:
        text = draw.fill(pattern, draw.pick(FIRMS[split]), SLOTS[split])
        return text[0].upper() + text[1:]

    def chinese(pattern: str) -> str:
        return draw.fill(pattern, draw.pick(CHINESE_FIRMS[split]), CHINESE_SLOTS)

    result: list[Row] = []
    for label in LABELS:
        num_english, num_chinese = COUNTS[split]
        headlines = draw.shuffled(patterns(HEADLINES[split][label]))
        for text in draw.distinct(num_english, headlines, english):
            result.append(_row(draw.pick(INSTRUCTIONS), text, label))
        headlines = draw.shuffled(patterns(CHINESE_HEADLINES[split][label], ""))
        for text in draw.distinct(num_chinese, headlines, chinese):
            result.append(_row(CHINESE_INSTRUCTION, text, label))
    result += [_row(DEFINE, *fact) for fact in facts(TERMS[split])]
    result += [_row(CHINESE_DEFINE, *fact) for fact in facts(CHINESE_TERMS[split], "")]
    return result


def _row(instruction: str, text: str, answer: str) -> Row:
    return {"instruction": instruction, "input": text, "output": answer}
