"""Contract clauses as sentence patterns: for each label those of train and those held out.

{a} provides the {thing} and is paid by {b}. The classes share parties, sums, dates and states, and
often name each other's subjects, so that no single word gives a class away.
"""

from make import patterns

TRAIN = {
    "Governing law": """
- The laws of {state} decide every question about the meaning and effect of this {doc}, wherever
  the {a} or the {b} is based.
- This {doc} is read and enforced under {state} law, without regard to conflict of laws rules that
  would point elsewhere.
- If a dispute arises over the {thing}, the rules of {state} apply to it, even where the {b} is
  located in another state.
- The parties choose {state} law for this {doc} and for any claim about unpaid sums, notice or delay
  connected with it.
- Any court hearing a case about this {doc} shall apply the substantive law of {state} and no other.
- No law other than that of {state} controls the rights and duties of the {a} and the {b} under this
  {doc}.
- Questions about whether this {doc} is valid or has ended are answered by the statutes and case law
  of {state}.
- Since the {b} is located in {state}, the parties agree that its law shall control this {doc} in
  all respects.
- International conventions on contracts are excluded, and the domestic law of {state} takes their
  place for this {doc}.
- This {doc} was signed on {date} and is subject to the legal system of {state}, including its
  limitation periods.
- The {a} and the {b} accept that their contract, and each order made under it, falls under {state}
  law.
- Interpretation of every section of this {doc} follows the law in force in {state} on {date}.
""",
    "Termination": """
- Either party may end this {doc} by giving the other at least {n} days' written notice, without
  stating a reason.
- The {b} may cancel this {doc} at once if the {a} fails to provide the {thing} by {date}.
- If a material breach is not cured within {n} days of notice, the innocent party may bring this
  {doc} to an end.
- This {doc} stops automatically on {date} unless the {a} and the {b} renew it in writing before
  then.
- The {a} may withdraw from this {doc} when an invoice for {sum} or more stays unpaid for over {n}
  days.
- If either party becomes insolvent, the other may cancel the remaining term of this {doc} with
  immediate effect.
- When this {doc} comes to an end, the {b} shall stop using the {thing} and settle all sums still
  due.
- A party that wishes to leave this {doc} early must tell the other {n} days ahead and pay {sum} in
  compensation.
- The right of the {a} to cancel this {doc} is not lost because it accepted an earlier breach by the
  {b}.
- After the first year, the {b} may bring this {doc} to a close at the end of any month on {n} days'
  notice.
- The {a} may end its duties early if a change in the law of {state} makes providing the {thing}
  unlawful.
- Ending this {doc} does not affect amounts owed or private information received before the end
  date.
""",
    "Confidentiality": """
- The {b} shall keep secret all business information learned from the {a} and use it only to perform
  this {doc}.
- Neither party may disclose the prices or terms of this {doc} to outsiders without the other's
  written consent.
- Staff of the {a} who see private data of the {b} must not reveal it for {years} years after
  {date}.
- Information marked as private stays the property of the party that disclosed it and must be
  returned on request.
- The {a} may share the {b}'s trade secrets only with employees who need to know them and are bound
  to silence.
- This duty of secrecy does not cover facts already public or facts a court in {state} orders a
  party to reveal.
- For {years} years after this {doc} ends, the {b} shall not pass on what it has learned about the
  {thing}.
- Documents, drawings and price lists exchanged between the parties are not to be shown to any third
  party.
- If the {b} is required by law to release protected information, it shall first notify the {a}
  within {n} days.
- The {a} shall guard the {b}'s customer lists with the same care that it uses for its own sensitive
  records.
- The existence of this {doc}, and the sum of {sum} named in it, may not be mentioned in any press
  release.
- Within {n} days of a request, the {b} shall destroy all copies of the {a}'s non-public material
  and confirm this in writing.
""",
    "Indemnification": """
- The {a} shall indemnify the {b} against all claims by third parties that arise from its own
  negligence.
- The {b} shall hold the {a} harmless from losses, fines and legal fees caused by misuse of the
  {thing}.
- If a third party sues the {b} over the {thing}, the {a} shall defend the case and pay any
  judgment.
- The {a} shall make good every loss the {b} suffers because a patent or copyright of others is
  infringed.
- Each party covers the other's reasonable attorney fees when its own breach leads to a lawsuit by
  an outsider.
- The {b} shall reimburse the {a} for penalties of a {state} authority that result from the {b}'s
  acts.
- A party seeking to be held harmless must report the third-party claim within {n} days and let the
  other control the defense.
- The {a} shall compensate the {b} for injury claims by the {a}'s workers, including settlements
  above {sum}.
- Damage to the property of others is borne by the {b} if its staff caused it, and the {a} is
  protected from resulting claims.
- The {a} agrees to stand behind the {b} and meet the cost of any suit alleging that the {thing}
  caused harm.
- Fines or claims imposed on the {a} by reason of the {b}'s conduct shall be repaid to the {a} in
  full.
- The duty to defend and hold harmless continues for {years} years after this {doc} has ended.
""",
    "Payment": """
- The {b} shall pay each invoice within {n} days of receipt by bank transfer to the account named by
  the {a}.
- A late charge of {pct} percent per month is added to any amount that remains unpaid after {date}.
- The price for the {thing} is {sum}, half due on signing and the rest on {date}.
- The {a} shall bill the {b} on the last day of each month for everything provided in that month.
- All fees are stated in dollars and exclude sales tax in {state}, which the {b} shall bear.
- If the {b} disputes a bill, it shall still pay the part not in dispute and explain its objection
  within {n} days.
- A deposit of {sum} is due before the {a} starts, and it counts toward the final invoice.
- The {b} shall refund travel costs of the {a} at the actual price against receipts, up to {sum} a
  month.
- Sums owed under this {doc} bear interest at {pct} percent a year from the due date until they are
  settled.
- The {a} may raise its rates once a year by at most {pct} percent after giving {n} days' notice.
- In exchange for the {thing}, the {b} shall transfer {sum} in {k} equal monthly installments
  beginning on {date}.
- The {b} may not set off or hold back any part of the fee because of a claim against the {a}.
""",
    "Assignment": """
- Neither party may transfer its rights or duties under this {doc} without the prior written consent
  of the other.
- The {a} may hand over this {doc} to a company that buys all of its business, on {n} days' notice.
- Any attempt by the {b} to pass its position under this {doc} to someone else without approval is
  void.
- This {doc} is binding on the successors and permitted transferees of the {a} and the {b}.
- The {b} shall not sell, transfer or delegate its interest in this {doc} to a third party unless
  the {a} agrees in writing.
- The {a} may transfer its claim to the sum of {sum} to a bank, but not its other duties.
- A change in control of the {b} counts as a transfer of this {doc} and needs the approval of the
  {a}.
- If the {a} moves its {state} business into an affiliate, that affiliate steps into this {doc} in
  its place.
- The {b} may not substitute another person for itself under this {doc}, whether by sale, merger or
  operation of law.
- Consent to a transfer of this {doc} shall not be withheld without good reason and is given within
  {n} days.
- After a permitted transfer, the old party stays liable with the new one for duties that fell due
  before {date}.
- The {a} may delegate its duties under this {doc} to an affiliate but remains responsible to the
  {b} for them.
""",
    "Liability limit": """
- The total liability of the {a} under this {doc} shall not exceed {sum}, whatever the cause of the
  claim.
- Neither party is liable to the other for lost profits, lost data or other indirect loss.
- The {a} owes no more in damages than the fees the {b} paid in the {k} months before the claim.
- The {b} can recover at most {sum} from the {a} for any defect in the {thing}.
- Nothing in this {doc} caps liability for fraud, death or injury, but all other claims are capped
  at {sum}.
- The {a} is not answerable for consequential or punitive damages, even if it knew that they were
  possible.
- Claims against the {a} are barred unless raised within {n} days and are limited to direct damage.
- The {a}'s responsibility for slight negligence is excluded, as far as the law of {state} allows.
- In no event shall either party's aggregate exposure under this {doc} be greater than twice the
  annual fee.
- The {b}'s only remedy for faults in the {thing} is a correction or a refund of the price paid.
- The ceiling of {sum} on damages applies to all claims together and not to each claim on its own.
- Damages for late performance are restricted to {pct} percent of the price, and no further loss can
  be claimed.
""",
    "Force majeure": """
- Neither party is in breach when a flood, war, strike or other event beyond its control prevents
  performance.
- If an earthquake or epidemic delays the {a}, its time to provide the {thing} is extended by the
  same period.
- A party stopped by an act of God shall notify the other within {n} days and resume once the event
  is over.
- The {a} is excused from its duties for as long as a government embargo in {state} makes providing
  the {thing} impossible.
- Where a power failure or riot lasts more than {n} days, either party may suspend its duties
  without penalty.
- Storms, fires and acts of terrorism that no one could foresee release the {b} from its duties
  while they last.
- Lack of money is not an event beyond control and never excuses the {b} from paying {sum} when due.
- The party relying on an unforeseeable event must show that it took every reasonable step to avoid
  the delay.
- Deadlines under this {doc} are put on hold during a national emergency, quarantine or general
  strike.
- No damages are owed for a delay caused by natural disaster, provided that the {a} told the {b}
  within {n} days.
- If a hurricane or civil unrest keeps the {a} from providing the {thing}, performance is suspended
  and no fee is due.
- An event outside the parties' reasonable control, such as war or sabotage, that lasts over {n}
  days permits either to cancel.
""",
}

HELD_OUT = {
    "Governing law": """
- Both sides have selected {state} as the legal order whose rules bind them on all matters raised by
  this {doc}.
- Whether the {a} has performed or the {b} is in breach shall be judged by the law of {state}.
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
- Should the {b} miss two due dates in a row, the {a} is free to call off this {doc} by letter.
- The term of this {doc} runs until {date}, after which neither party is bound to continue.
- On {n} days' notice and without cause, the {b} may discontinue this {doc} before its term runs
  out.
- Serious misconduct by the {a} entitles the {b} to declare this {doc} over with no notice period.
- If this {doc} is ended early, the {a} keeps the fees earned up to the last day and hands over the
  {thing}.
- The parties may at any time agree in writing to dissolve this {doc} and release each other from
  further duties.
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
- The {b} shall keep the {a} free from all liability toward third parties that stems from use of the
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
- An advance of {sum} is payable when this {doc} is signed, and the balance follows upon acceptance.
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
- Exclusions and caps in this {doc} hold for claims in contract, tort and otherwise, even if they
  exceed {sum}.
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
- Obligations rest while a catastrophe such as a volcanic eruption or tsunami makes performance of
  this {doc} impossible.
- When an insurrection or a ban by public authorities hinders the {b}, its due dates move back
  accordingly.
- The {a} shall promptly report any extraordinary outside event that halts its work and say how long
  it may last.
- Extreme weather, explosions and labor disputes at third parties free the affected party from duty
  until they cease.
""",
}

CLAUSES = {
    "train": {label: patterns(block) for label, block in TRAIN.items()},
    "eval": {label: patterns(block) for label, block in HELD_OUT.items()},
}
