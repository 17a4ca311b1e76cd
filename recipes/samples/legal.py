"""Legal sample: name the type of a contract clause, and answer short questions on legal terms."""

from __future__ import annotations

import legal_chinese
import legal_clauses
import legal_held_out
from make import Draw, Row, facts, patterns

LABELS = list(legal_clauses.TRAIN)
CLAUSES = {"train": legal_clauses.TRAIN, "eval": legal_held_out.HELD_OUT}
CHINESE_CLAUSES = {"train": legal_chinese.TRAIN, "eval": legal_chinese.HELD_OUT}

CLAUSE_INSTRUCTIONS = [
    "Name the clause type.",
    "Which kind of contract clause is this?",
    "Classify this contract clause.",
]
CHINESE_CLAUSE_INSTRUCTIONS = ["条款类型（英文）？", "这是哪类条款？"]
QUESTION_INSTRUCTIONS = ["Answer the legal question in one sentence.", "Explain the legal term."]
CHINESE_QUESTION_INSTRUCTION = "用一句话回答法律问题。"

# Rows of each kind: clauses are counted per label.
COUNTS = {
    "train": {"clauses": 40, "chinese_clauses": 5},
    "eval": {"clauses": 9, "chinese_clauses": 1},
}
OPENING_SHARE = 0.12
OPENINGS = {
    "train": ["Subject to {section}, ", "For the avoidance of doubt, ", "As agreed on {signed}, "],
    "eval": ["Unless {section} says otherwise, ", "Under the terms accepted on {signed}, "],
}
CHINESE_OPENINGS = {"train": ["除另有约定外，", "为避免疑义，"], "eval": ["双方确认，"]}

DEALS = {
    "train": [
        {"doc": "lease", "a": "Landlord", "b": "Tenant", "thing": "premises"},
        {"doc": "license", "a": "Licensor", "b": "Licensee", "thing": "software"},
        {"doc": "supply agreement", "a": "Supplier", "b": "Customer", "thing": "goods"},
        {"doc": "consulting agreement", "a": "Consultant", "b": "Client", "thing": "reports"},
        {"doc": "building contract", "a": "Contractor", "b": "Owner", "thing": "works"},
        {"doc": "distribution agreement", "a": "Maker", "b": "Dealer", "thing": "products"},
        {"doc": "catering agreement", "a": "Caterer", "b": "Organizer", "thing": "meals"},
        {"doc": "maintenance contract", "a": "Vendor", "b": "Operator", "thing": "spare parts"},
    ],
    "eval": [
        {"doc": "hosting agreement", "a": "Host", "b": "Subscriber", "thing": "servers"},
        {"doc": "freight contract", "a": "Carrier", "b": "Shipper", "thing": "containers"},
        {"doc": "design agreement", "a": "Designer", "b": "Retailer", "thing": "drawings"},
        {"doc": "research agreement", "a": "Laboratory", "b": "Sponsor", "thing": "samples"},
    ],
}
SLOTS = {
    "train": {
        "state": ["Ohio", "New York", "Texas", "Oregon", "Illinois", "Ontario", "Singapore"],
        "n": ["10", "15", "30", "45", "60", "90"],
        "years": ["two", "three", "five"],
        "k": ["six", "twelve", "eighteen"],
        "pct": ["1.5", "2", "5", "8"],
        "sum": ["$2,500", "$12,000", "$40,000", "$150,000", "$300,000"],
        "date": ["March 1, 2025", "June 30, 2026", "the first of May", "December 31, 2027"],
        "signed": ["January 9", "February 20"],
        "section": ["Section 4.2", "Section 9", "Schedule B"],
    },
    "eval": {
        "state": ["Vermont", "Nevada", "Scotland", "Queensland", "Michigan"],
        "n": ["7", "14", "20", "21", "28"],
        "years": ["four", "seven"],
        "pct": ["3", "6", "4.5"],
        "sum": ["$7,300", "$26,000", "$95,000", "$480,000"],
        "date": ["April 15, 2028", "October 1, 2029", "the last day of August"],
        "signed": ["March 3", "November 12"],
        "section": ["Section 11.3", "Annex 2"],
    },
}

WORDINGS = {
    "train": ["What is {term}?", "How would a lawyer explain {term}?", "In law, what is {term}?"],
    "eval": ["What is meant by {term}?", "Can you say what {term} is in law?"],
}
TERMS = {
    "train": """
- a lien | A lien is a claim on property that secures payment of a debt.
- a mortgage | A mortgage is a security interest in land given to secure a loan.
- a tort | A tort is a civil wrong, other than breach of contract, that can lead to damages.
- negligence | Negligence is a failure to take reasonable care that causes harm to another.
- a plaintiff | A plaintiff is the party who brings a civil lawsuit.
- a defendant | A defendant is the party who is sued or accused in court.
- a subpoena | A subpoena is an order to appear in court or to produce documents.
- an affidavit | An affidavit is a written statement that is sworn to be true.
- a statute | A statute is a written law passed by a legislature.
- a precedent | A precedent is an earlier court decision that guides or binds later courts.
- an injunction | An injunction is a court order to do something or to stop doing it.
- a warranty | A warranty is a promise that a fact about goods or services is true.
- a breach of contract | A breach of contract is a failure to perform its terms without excuse.
- an offer | An offer is a proposal that becomes a contract if the other party accepts it.
- consideration | Consideration is the value that each side gives under a common-law contract.
- a power of attorney | A power of attorney is a document that lets one person act for another.
- a trust | A trust is an arrangement in which property is held for the benefit of others.
- a trustee | A trustee is a person who holds and manages property for beneficiaries.
- a will | A will is a document that says who receives a person's property after death.
- an executor | An executor is the person named in a will to carry it out.
- probate | Probate is the process of proving a will and settling the estate.
- a copyright | A copyright is a right that protects original works such as books and music.
- a patent | A patent is an exclusive right to an invention for a limited time.
- a trademark | A trademark is a sign that shows who made goods or services.
- a trade secret | A trade secret is valuable business information that its owner keeps secret.
- a license | A license is permission to do something that would otherwise not be allowed.
- arbitration | Arbitration is a private process in which a neutral person decides a dispute.
- a settlement | A settlement is an agreement that ends a dispute without a final judgment.
- a verdict | A verdict is the decision that a jury reaches at the end of a trial.
- an appeal | An appeal is a request that a higher court review a decision.
- bail | Bail is money or a promise given so that an accused person is released before trial.
- perjury | Perjury is the crime of knowingly lying under oath.
- a guardian | A guardian is a person with legal power to care for someone who cannot do so alone.
- an easement | An easement is a right to use another person's land for a limited purpose.
- a deed | A deed is a signed document that is used to transfer property, often land.
- a tenant | A tenant is a person who rents land or a building from its owner.
- a sublease | A sublease is a lease granted by a tenant to another person.
- a corporation | A corporation is a legal entity that is separate from its shareholders.
- a partnership | A partnership is a business carried on by two or more people for profit.
- a shareholder | A shareholder is an owner of one or more shares in a company.
- bankruptcy | Bankruptcy is a legal process for people or firms that cannot pay their debts.
- collateral | Collateral is property pledged to secure a loan.
- a guarantor | A guarantor is a person who promises to pay if the debtor does not.
- due process | Due process is the rule that the state must use fair procedures.
- jurisdiction | Jurisdiction is the power of a court to hear and decide a case.
- the burden of proof | The burden of proof is the duty to prove a disputed fact.
- a witness | A witness is a person who gives evidence about what he or she knows.
- hearsay | Hearsay is an out-of-court statement offered to prove that what it says is true.
- a minor | A minor is a person below the legal age of majority.
- a waiver | A waiver is the voluntary giving up of a known right.
- a quorum | A quorum is the smallest number of members needed for a valid meeting.
- a severability clause | A severability clause keeps a contract valid if one part of it fails.
- a non-compete clause | A non-compete clause limits a person's right to work for a rival.
- an entire agreement clause | An entire agreement clause says the text is the whole contract.
- a notice clause | A notice clause says how the parties must send each other formal messages.
""",
    "eval": """
- a contract | A contract is an agreement that the law will enforce.
- a debtor | A debtor is a person who owes money to another.
- a creditor | A creditor is a person to whom money is owed.
- a beneficiary | A beneficiary is a person who benefits from a trust, will or insurance policy.
- an heir | An heir is a person who is entitled to inherit property.
- an estate | An estate is everything that a person owns at death.
- child custody | Child custody is the legal right and duty to care for a child.
- a landlord | A landlord is an owner who rents property to a tenant.
- a judgment | A judgment is the final decision of a court in a case.
- an amendment | An amendment is a formal change to a law or a contract.
- a jury | A jury is a group of citizens that decides the facts of a case.
- a summons | A summons is an official notice that tells a person to answer a lawsuit.
- a counteroffer | A counteroffer is a reply to an offer that changes its terms.
- an agent | An agent is a person who is authorized to act for another.
- fraud | Fraud is deliberate deception for unfair gain.
- defamation | Defamation is a false statement that harms a person's reputation.
- a fiduciary | A fiduciary is a person who must act loyally for the benefit of another.
- a merger | A merger is the joining of two companies into one.
- a statute of limitations | A statute of limitations sets the time limit for bringing a claim.
- mediation | Mediation is a process in which a neutral person helps the parties settle a dispute.
- an eviction | An eviction is the legal removal of a tenant from property.
""",
}


def rows(split: str, draw: Draw) -> list[Row]:
    """Clauses of every label in equal number, then questions, each in English and Chinese."""
    result: list[Row] = []
    for label in LABELS:
        for text in _clauses(label, split, draw):
            result.append(_row(draw.pick(CLAUSE_INSTRUCTIONS), text, label))
        for text in _chinese_clauses(label, split, draw):
            result.append(_row(draw.pick(CHINESE_CLAUSE_INSTRUCTIONS), text, label))
    for term, answer in facts(TERMS[split]):
        for wording in draw.shuffled(WORDINGS[split])[: 2 if split == "train" else 1]:
            question = wording.format(term=term)
            result.append(_row(draw.pick(QUESTION_INSTRUCTIONS), question, answer))
    for question, answer in facts(legal_chinese.QUESTIONS[split], ""):
        result.append(_row(CHINESE_QUESTION_INSTRUCTION, question, answer))
    return result


def _clauses(label: str, split: str, draw: Draw) -> list[str]:
    def write(pattern: str) -> str:
        if draw.chance(OPENING_SHARE):
            opening = draw.pick(OPENINGS[split])
            pattern = opening + pattern[0].lower() + pattern[1:]
        return draw.fill(pattern, draw.pick(DEALS[split]), SLOTS[split])

    kept = draw.shuffled(patterns(CLAUSES[split][label]))
    return draw.distinct(COUNTS[split]["clauses"], kept, write)


def _chinese_clauses(label: str, split: str, draw: Draw) -> list[str]:
    def write(pattern: str) -> str:
        opening = draw.pick(CHINESE_OPENINGS[split]) if draw.chance(OPENING_SHARE) else ""
        parties = draw.pick(legal_chinese.PARTIES[split])
        return opening + draw.fill(pattern, parties, legal_chinese.SLOTS[split])

    kept = draw.shuffled(patterns(CHINESE_CLAUSES[split][label], ""))
    return draw.distinct(COUNTS[split]["chinese_clauses"], kept, write)


def _row(instruction: str, text: str, answer: str) -> Row:
    return {"instruction": instruction, "input": text, "output": answer}
