"""Medical sample: a question, a short context and the answer found in it. General knowledge only.

Nothing here is advice: no doses, no treatment plans.
"""

from __future__ import annotations

from make import Draw, Row, facts

# Each entry: context | question | answer | question | answer ...
TOPICS = {
    "train": """
- The heart is a muscle that pumps blood through the body. It has four chambers and, in a resting
  adult, usually beats 60 to 100 times a minute. | How many chambers does the heart have? | Four. |
  How fast does an adult's heart usually beat at rest? | 60 to 100 times a minute. | What does the
  heart pump? | Blood.
- The lungs take oxygen from the air into the blood and give off carbon dioxide. The right lung has
  three lobes and the left lung has two. | Which gas do the lungs take into the blood? | Oxygen. |
  How many lobes does the left lung have? | Two. | Which gas do the lungs give off? | Carbon
  dioxide.
- The kidneys filter waste and extra water from the blood to make urine. Most people have two, and a
  person can live with one healthy kidney. | What do the kidneys make? | Urine. | How many kidneys
  do most people have? | Two. | Can a person live with one healthy kidney? | Yes.
- The liver lies in the upper right part of the belly. It makes bile, which helps to digest fat, and
  it breaks down many harmful substances. | Where does the liver lie? | In the upper right part of
  the belly. | What does bile help to digest? | Fat. | Which organ makes bile? | The liver.
- An adult human skeleton has 206 bones. The longest is the thigh bone, or femur, and the smallest
  is the stapes in the middle ear. | How many bones does an adult have? | 206. | Which bone is the
  longest? | The thigh bone, or femur. | Where is the smallest bone found? | In the middle ear.
- Skin is the largest organ of the body. It keeps germs out, helps to control temperature and senses
  touch. | What is the largest organ of the body? | The skin. | What does the skin keep out? |
  Germs. | Name one thing that the skin senses. | Touch.
- Red blood cells carry oxygen with the help of hemoglobin, a protein that contains iron. They live
  for about 120 days. | Which protein in red blood cells carries oxygen? | Hemoglobin. | Which metal
  does hemoglobin contain? | Iron. | How long do red blood cells live? | About 120 days.
- White blood cells are part of the immune system. They find and fight bacteria, viruses and other
  invaders. | Which system do white blood cells belong to? | The immune system. | What do white
  blood cells fight? | Bacteria, viruses and other invaders.
- Platelets are tiny pieces of cells in the blood. They stick together at a wound and help a clot to
  form. | What do platelets help to form? | A clot. | Where do platelets stick together? | At a
  wound.
- Asthma makes the airways swell and narrow. Common signs are wheezing, coughing and shortness of
  breath, and triggers include pollen and smoke. | What happens to the airways in asthma? | They
  swell and narrow. | Name two triggers of asthma. | Pollen and smoke. | What are common signs of
  asthma? | Wheezing, coughing and shortness of breath.
- In type 1 diabetes, the body makes little or no insulin because the immune system attacks cells in
  the pancreas. | Which hormone is lacking in type 1 diabetes? | Insulin. | Where are the attacked
  cells? | In the pancreas.
- Influenza, or flu, is caused by viruses that spread mainly by droplets when people cough, sneeze
  or talk. Yearly vaccination lowers the risk. | What causes influenza? | Viruses. | How does flu
  mainly spread? | By droplets when people cough, sneeze or talk. | What lowers the risk of flu? |
  Yearly vaccination.
- Antibiotics act against bacteria. They do not work against viruses such as those that cause the
  common cold. | What do antibiotics act against? | Bacteria. | Do antibiotics cure the common cold?
  | No, because it is caused by viruses.
- High blood pressure often has no symptoms. Over time it can damage the heart, the brain and the
  kidneys, so regular checks are useful. | Does high blood pressure always cause symptoms? | No, it
  often has none. | Which organs can high blood pressure damage? | The heart, the brain and the
  kidneys.
- A stroke happens when blood flow to part of the brain is blocked or a vessel there bursts. A
  drooping face and slurred speech are warning signs that call for emergency help. | Which organ
  does a stroke affect? | The brain. | Name a warning sign of a stroke. | A drooping face. | What
  should the warning signs of a stroke lead to? | A call for emergency help.
- Anemia means that the blood has too few healthy red cells or too little hemoglobin. Tiredness is a
  common symptom, and lack of iron is a common cause. | What is a common cause of anemia? | Lack of
  iron. | What is a common symptom of anemia? | Tiredness. | Which cells are too few in anemia? |
  Healthy red blood cells.
- Vitamin D helps the body to take up calcium. The skin makes it in sunlight, and oily fish contains
  it. | What does vitamin D help the body to take up? | Calcium. | How does the skin make vitamin D?
  | In sunlight. | Which food contains vitamin D? | Oily fish.
- Scurvy is caused by a lack of vitamin C. Its signs include bleeding gums and slow healing of
  wounds. | Which vitamin is lacking in scurvy? | Vitamin C. | What happens to the gums in scurvy? |
  They bleed.
- A fracture is a broken bone. Doctors usually confirm it with an X-ray, and a cast keeps the bone
  still while it heals. | What is a fracture? | A broken bone. | How is a fracture usually
  confirmed? | With an X-ray. | What keeps a broken bone still? | A cast.
- A sprain is an injury to a ligament, the tissue that joins one bone to another. A strain is an
  injury to a muscle or a tendon. | Which tissue is hurt in a sprain? | A ligament. | What does a
  ligament join? | One bone to another. | Which injury affects a muscle or a tendon? | A strain.
- Malaria is caused by parasites that spread through the bites of infected mosquitoes. Sleeping
  under a net lowers the risk of bites. | Which insects spread malaria? | Mosquitoes. | What causes
  malaria? | Parasites. | What lowers the risk of bites at night? | Sleeping under a net.
- Measles is a very contagious viral disease with fever and a rash. Vaccination protects most people
  against it. | What kind of germ causes measles? | A virus. | What protects most people against
  measles? | Vaccination. | What skin sign does measles cause? | A rash.
- A migraine is a headache that is often on one side of the head. Bright light and noise can make it
  worse. | Where is migraine pain often felt? | On one side of the head. | What can make a migraine
  worse? | Bright light and noise.
- The pupil of the eye lets light in. It becomes smaller in bright light and larger in the dark. |
  When does the pupil become larger? | In the dark. | What does the pupil let in? | Light.
- A person with myopia sees near things clearly but distant things look blurred. Glasses or contact
  lenses can correct it. | Which things look blurred in myopia? | Distant things. | What can correct
  myopia? | Glasses or contact lenses.
- A cataract is a clouding of the lens of the eye. It is common in old age and can be removed by
  surgery. | Which part of the eye becomes cloudy in a cataract? | The lens. | How can a cataract be
  removed? | By surgery. | When is a cataract common? | In old age.
- Tooth decay begins when bacteria in the mouth turn sugar into acid. Brushing with fluoride
  toothpaste helps to prevent it. | What do mouth bacteria turn sugar into? | Acid. | What helps to
  prevent tooth decay? | Brushing with fluoride toothpaste.
- Sunburn is skin damage from ultraviolet light. Shade, clothing and sunscreen give protection. |
  Which kind of light causes sunburn? | Ultraviolet light. | Name three things that protect against
  sunburn. | Shade, clothing and sunscreen.
- Dehydration means that the body loses more water than it takes in. Thirst and dark urine are
  typical signs. | What is dehydration? | A loss of more water than the body takes in. | What color
  of urine suggests dehydration? | Dark.
- The normal temperature of the body is close to 37 degrees Celsius. A reading of 38 degrees or more
  is usually called a fever. | What is the normal body temperature in Celsius? | Close to 37
  degrees. | From which reading does one usually speak of a fever? | From 38 degrees Celsius.
- The ear has an outer, a middle and an inner part. The cochlea in the inner ear turns vibrations
  into nerve signals. | How many parts does the ear have? | Three. | Where is the cochlea? | In the
  inner ear. | What does the cochlea turn vibrations into? | Nerve signals.
- The large intestine takes up water from what is left of digested food. It is wider but shorter
  than the small intestine. | What does the large intestine take up? | Water. | Which intestine is
  longer? | The small intestine. | Which intestine is wider? | The large intestine.
- Insulin is a hormone made in the pancreas. It lets sugar move from the blood into the cells. |
  Where is insulin made? | In the pancreas. | What does insulin let move into the cells? | Sugar.
- Hay fever is an allergy to pollen. Sneezing, a runny nose and itchy eyes are common, mostly in
  spring and summer. | What are people with hay fever allergic to? | Pollen. | When is hay fever
  most common? | In spring and summer. | How do the eyes feel in hay fever? | Itchy.
- A vaccine trains the immune system to recognize a germ. If the germ comes later, the body can
  react faster. | Which system does a vaccine train? | The immune system. | What does a vaccine
  teach the body to recognize? | A germ.
- Blood is grouped by the ABO system into the types A, B, AB and O. Donated blood must match the
  person who receives it. | How many types does the ABO system have? | Four. | What must donated
  blood match? | The person who receives it.
- The spinal cord carries signals between the brain and the body. It is protected by the bones of
  the spine. | What protects the spinal cord? | The bones of the spine. | What does the spinal cord
  carry? | Signals between the brain and the body.
- Arthritis is an inflammation of one or more joints. It causes pain, stiffness and swelling, and
  gentle movement often helps. | Which parts of the body does arthritis affect? | The joints. | What
  does arthritis cause? | Pain, stiffness and swelling. | What often helps with arthritis? | Gentle
  movement.
- Adults usually need at least seven hours of sleep a night. Too little sleep harms memory and mood.
  | How much sleep do adults usually need? | At least seven hours a night. | What does too little
  sleep harm? | Memory and mood.
- A burn from heat should be cooled under running water. Large or deep burns need medical care at
  once. | What should a burn be cooled with? | Running water. | Which burns need medical care at
  once? | Large or deep burns.
""",
    "eval": """
- The stomach mixes food with acid and enzymes. Food then moves on to the small intestine, where
  most nutrients are absorbed. | Where are most nutrients absorbed? | In the small intestine. | What
  does the stomach mix food with? | Acid and enzymes. | Where does food go after the stomach? | To
  the small intestine.
- Arteries carry blood away from the heart, and veins bring it back. Capillaries are the smallest
  vessels. | Which vessels carry blood away from the heart? | Arteries. | Which vessels are the
  smallest? | Capillaries. | What do veins do? | They bring blood back to the heart.
- Chickenpox causes an itchy rash with small blisters. The same virus can return years later as
  shingles. | What can the chickenpox virus return as? | Shingles. | What does the rash of
  chickenpox look like? | It is itchy, with small blisters.
- Appendicitis is an inflammation of the appendix. The pain often starts near the navel and moves to
  the lower right side. | Where does the pain of appendicitis often start? | Near the navel. | Which
  organ is inflamed in appendicitis? | The appendix. | Where does the pain move to? | The lower
  right side.
- Osteoporosis makes bones weak and easy to break. It becomes more common with age, and exercise
  that bears weight helps to keep bones strong. | What does osteoporosis do to bones? | It makes
  them weak and easy to break. | What helps to keep bones strong? | Exercise that bears weight.
- Tuberculosis is caused by bacteria and mostly affects the lungs. A cough that lasts for weeks is a
  typical symptom. | Which organs does tuberculosis mostly affect? | The lungs. | What causes
  tuberculosis? | Bacteria. | Name a typical symptom of tuberculosis. | A cough that lasts for
  weeks.
- The thyroid gland sits at the front of the neck. Its hormones set how fast the body uses energy,
  and it needs iodine to make them. | Where is the thyroid gland? | At the front of the neck. | What
  does the thyroid need to make its hormones? | Iodine. | What do thyroid hormones set? | How fast
  the body uses energy.
- Washing hands with soap for about twenty seconds removes many germs. It matters most before eating
  and after using the toilet. | For how long should hands be washed? | About twenty seconds. | What
  does washing hands remove? | Many germs.
- Tinnitus is the hearing of a sound, such as ringing, that has no outside source. Loud noise is one
  of its causes. | What is tinnitus? | Hearing a sound that has no outside source. | Name a cause of
  tinnitus. | Loud noise.
- Celiac disease is a reaction of the immune system to gluten. Gluten is found in wheat, barley and
  rye. | What triggers celiac disease? | Gluten. | Which grains contain gluten? | Wheat, barley and
  rye.
""",
}
CHINESE_TOPICS = {
    "train": """
- 心脏把血液输送到全身。心脏有四个腔，左侧的血液富含氧气。 | 心脏有几个腔？ | 四个。 |
  心脏左侧的血液富含什么？ | 氧气。
- 流感由病毒引起，主要通过飞沫传播。每年接种疫苗可以降低患病风险。 | 流感由什么引起？ | 病毒。 |
  流感主要怎样传播？ | 通过飞沫传播。
- 胰岛素由胰腺分泌，能降低血糖。 | 胰岛素由哪个器官分泌？ | 胰腺。 | 胰岛素对血糖有什么作用？ |
  降低血糖。
- 抗生素对细菌有效，对病毒无效。普通感冒由病毒引起。 | 抗生素对什么有效？ | 细菌。 |
  普通感冒由什么引起？ | 病毒。
- 缺铁是贫血的常见原因。贫血的人常常感到疲倦。 | 贫血的常见原因是什么？ | 缺铁。 |
  贫血的人常有什么感觉？ | 疲倦。
- 维生素D帮助身体吸收钙。皮肤在阳光下可以合成维生素D。 | 维生素D帮助身体吸收什么？ | 钙。 |
  皮肤在什么条件下合成维生素D？ | 在阳光下。
- 近视的人看近处清楚，看远处模糊。眼镜可以矫正近视。 | 近视的人看哪里模糊？ | 远处。 |
  什么可以矫正近视？ | 眼镜。
- 成年人的骨骼共有206块骨头，其中最长的是股骨。 | 成年人有多少块骨头？ | 206块。 |
  最长的骨头是哪一块？ | 股骨。
- 疟疾由寄生虫引起，通过受感染的蚊子叮咬传播。 | 疟疾通过什么传播？ | 受感染的蚊子叮咬。 |
  疟疾由什么引起？ | 寄生虫。
- 中暑常发生在高温环境中。应尽快把病人移到阴凉处并寻求医疗帮助。 | 中暑常发生在什么环境中？ |
  高温环境中。 | 应把中暑的病人移到哪里？ | 阴凉处。
""",
    "eval": """
- 肺吸入氧气，呼出二氧化碳。右肺有三叶，左肺有两叶。 | 右肺有几叶？ | 三叶。 | 肺呼出什么气体？ |
  二氧化碳。
- 甲状腺位于颈部前方，合成激素需要碘。 | 甲状腺位于哪里？ | 颈部前方。 | 甲状腺合成激素需要什么？ |
  碘。
- 饭前和便后用肥皂洗手可以去除许多细菌。 | 什么时候应该洗手？ | 饭前和便后。
""",
}


def rows(split: str, draw: Draw) -> list[Row]:
    """One row for each question; the questions of a topic share its context."""
    topics = facts(TOPICS[split]) + facts(CHINESE_TOPICS[split], "")
    return [
        {"question": question, "context": context, "answer": answer}
        for context, *pairs in topics
        for question, answer in zip(pairs[::2], pairs[1::2], strict=True)
    ]
