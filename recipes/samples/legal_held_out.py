"""Contract clauses of the eval split: for each label, wordings that do not stand in train."""

HELD_OUT = {
    "Governing law": """
- Both sides have selected {state} as the legal order whose rules bind them on all matters raised by
  this {doc}.
- Whether the {a} has performed or the {b} is in breach is a question of the law of {state}.
- This {doc} and all non-contractual obligations arising from it are governed solely by what the law
  of {state} provides.
- A judge or arbitrator must construe this {doc} in line with {state} law, leaving aside its choice
  of law principles.
- The applicable law is that of {state}, although the {thing} may be supplied or used in another
  country.
- All matters of construction, validity and performance are to be settled under the legislation of
  {state}.
""",
    "Termination": """
- Should the {b} miss two due dates in a row, the {a} may cancel this {doc} by letter.
- The term of this {doc} ends on {date}, after which neither party is bound to continue.
- On {n} days' notice and without cause, the {b} may discontinue this {doc} before its term runs
  out.
- Serious misconduct by the {a} entitles the {b} to end this {doc} with no notice period.
- If this {doc} is ended early, the {a} keeps the fees earned up to the last day and hands over the
  {thing}.
- The parties may agree in writing to end this {doc} early and release each other from further
  duties.
""",
    "Confidentiality": """
- What the {a} tells the {b} about its costs, plans or methods is to be held in strict confidence.
- The {b} promises not to publish or leak internal know-how of the {a} that concerns the {thing}.
- A recipient shall limit access to the other side's secret records and send them back by {date}.
- Each party treats the other's undisclosed data as private, and this promise outlasts the {doc} by
  {years} years.
- Before any visit, advisers of the {b} must sign a non-disclosure undertaking in favor of the {a}.
- No one working for the {a} may speak to the press or to rivals about the affairs of the {b}.
""",
    "Indemnification": """
- Should outsiders bring proceedings against the {a} because of something the {b} did, the {b} shall
  bear every resulting expense.
- The {a} takes over the defense of any infringement suit against the {b} and pays the damages
  awarded.
- The {b} shall keep the {a} free from all claims of third parties that stem from use of the
  {thing}.
- Costs that the {a} incurs from a lawsuit based on the {b}'s wrongful act shall be refunded by the
  {b} within {n} days.
- An indemnified party may hire its own lawyer, but the indemnifying party pays only for counsel
  that it appointed.
- The {a}, its officers and its agents are to be saved harmless by the {b} from suits filed in
  {state} or elsewhere.
""",
    "Payment": """
- Charges for the {thing} fall due {n} days after the {a} sends its statement of account.
- The {b} owes a yearly fee of {sum}, to be remitted in advance on the first of January.
- Overdue balances carry interest at {pct} percent, counted daily until the {a} has received the
  money.
- An advance of {sum} is payable by the {b} when this {doc} is signed, and the balance is due upon
  acceptance.
- The {a} shall send its bills by e-mail, and the {b} shall clear them by wire within {n} days.
- Prices in this {doc} are fixed until {date} and include packing, duties and all other costs.
""",
    "Assignment": """
- The {b} may cede this {doc} to an affiliate if it first informs the {a} in writing.
- This {doc} is personal to the {b}, which cannot make it over to anyone else.
- Should the {a} sell its business, the buyer takes its place in this {doc} from the closing date.
- A purported transfer of rights under this {doc} made without the other party's agreement has no
  effect.
- The {a} is free to sell or pledge its receivables from this {doc} to a lender in {state}.
- Rights granted to the {b} pass to its successors only after the {a} has approved them in writing.
""",
    "Liability limit": """
- Save in cases of willful misconduct, the {a} answers only for foreseeable loss and only up to
  {sum}.
- The most that the {b} may claim in damages over the life of this {doc} is the sum of {sum}.
- The {a} accepts no responsibility for loss of business, goodwill or revenue suffered by the {b}.
- Caps on damages in this {doc} hold for claims in contract, tort and otherwise, even if the loss
  exceeds {sum}.
- However many claims arise, the {a}'s obligation to pay damages ends once it has paid {sum} in
  total.
- Special or exemplary damages cannot be recovered by either party, except where {state} law forbids
  such a waiver.
""",
    "Force majeure": """
- Failure to perform because of lightning, blockade or pandemic shall not count as a default by
  either side.
- The {a} bears no blame when circumstances it could neither predict nor prevent keep it from
  providing the {thing}.
- Obligations are suspended while a catastrophe such as a volcanic eruption or tsunami makes
  performance of this {doc} impossible.
- When an insurrection or a ban by public authorities hinders the {b}, its due dates move back
  accordingly.
- The {a} shall promptly report any extraordinary outside event that halts its work and say how long
  it may last.
- Extreme weather, explosions and labor disputes at third parties free the affected party from duty
  until they cease.
""",
}
